// Matrix product states as PyTorch operators: vectors carried along their arms, and the sites' gradients; chain.h computes.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/library.h>

#include <tuple>

#include "chain.h"

namespace qcnn {
namespace {

// Plain pointers read these tensors, so their types and shapes must be right.
void check(const char* name, const Tensor& tensor, at::IntArrayRef sizes, at::ScalarType type) {
  TORCH_CHECK(tensor.sizes() == sizes && tensor.scalar_type() == type && tensor.is_contiguous() && tensor.device().is_cpu(),
              name, " is ", tensor.toString(), " of shape ", tensor.sizes(), ": expected contiguous ", type,
              " on the CPU of shape ", sizes);
}

at::ScalarType checked_type(const Tensor& sites, const Tensor& features) {
  const auto type = sites.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "sites are ", type, ": expected float32 or float64");
  TORCH_CHECK(sites.dim() == 5 && sites.size(3) == sites.size(4), "sites have shape ", sites.sizes());
  TORCH_CHECK(features.dim() == 4 && features.size(2) > 0, "features have shape ", features.sizes());
  check("sites", sites, sites.sizes(), type);
  check("features", features, {sites.size(0) + 1, sites.size(1), features.size(2), sites.size(2)}, type);
  return type;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> chain_forward(const Tensor& ends, const Tensor& sites, const Tensor& features,
                                                         double size, bool keep) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const auto type = checked_type(sites, features);
  check("ends", ends, {sites.size(1), sites.size(2), sites.size(3)}, type);
  return type == at::kFloat ? Chain<float>(sites, features, size).forward(ends, keep)
                            : Chain<double>(sites, features, size).forward(ends, keep);
}

std::tuple<Tensor, Tensor> chain_backward(const Tensor& gradient, const Tensor& sites, const Tensor& features,
                                          const Tensor& vectors, const Tensor& shifts, double size) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const auto type = checked_type(sites, features);
  const int64_t arms = sites.size(1), images = features.size(2);
  check("gradient", gradient, {arms, images, sites.size(3)}, type);
  check("vectors", vectors, {arms, sites.size(0) + 1, images, vectors.size(-1)}, type);
  check("shifts", shifts, {arms, shifts.size(1), images}, at::kInt);
  return type == at::kFloat ? Chain<float>(sites, features, size).backward(gradient, vectors, shifts)
                            : Chain<double>(sites, features, size).backward(gradient, vectors, shifts);
}

}  // namespace
}  // namespace qcnn

TORCH_LIBRARY_FRAGMENT(qcnn_lightning, library) {
  // Sites are W / size. The vectors at the inner ends, their powers of two; and, if keep, what the way back needs.
  library.def(
      "chain_forward(Tensor ends, Tensor sites, Tensor features, float size, bool keep) -> (Tensor last, Tensor exponent, Tensor vectors, "
      "Tensor shifts)",
      &qcnn::chain_forward);
  // The gradients of ends and sites.
  library.def(
      "chain_backward(Tensor gradient, Tensor sites, Tensor features, Tensor vectors, Tensor shifts, float size) -> (Tensor of_ends, "
      "Tensor of_sites)",
      &qcnn::chain_backward);
}
