// Trees whose nodes have matrices of their own as PyTorch operators: block states of the whole image and their gradients.
//
// node_tree.h computes, node_rows.h finds the distinct blocks. Neither threads nor earlier calls change the order of a sum, so
// results repeat bit by bit.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <memory>
#include <tuple>
#include <utility>

#include "node_tree.h"

namespace qcnn {
namespace {

// Plain pointers read these tensors, so their types and shapes must be right.
void check(const Tensor& x, const Tensor& table, const std::optional<Tensor>& pixel_gram, const Tensor& padding,
           const Tensors& weights) {
  const auto type = table.scalar_type();
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "table is ", type, ": expected float32 or float64");
  const auto check_numbers = [&](const char* name, const Tensor& numbers, at::IntArrayRef sizes) {
    TORCH_CHECK(numbers.sizes() == sizes && numbers.scalar_type() == type && numbers.is_contiguous() &&
                    numbers.device().is_cpu(),
                name, " is ", numbers.toString(), " of shape ", numbers.sizes(), ": expected contiguous ", type,
                " on the CPU of shape ", sizes);
  };
  const int64_t sites = int64_t{1} << weights.size();
  TORCH_CHECK(!weights.empty() && table.dim() == 2, "expected weights of at least 1 level, and a table");
  TORCH_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) == sites && x.scalar_type() == at::kByte && x.is_contiguous() &&
                  x.device().is_cpu(),
              "x is ", x.toString(), " of shape ", x.sizes(), ": expected contiguous uint8 on the CPU of shape (batch, ",
              sites, "), at least one image");
  TORCH_CHECK(padding.sizes() == at::IntArrayRef{sites} && padding.scalar_type() == at::kBool && padding.is_contiguous() &&
                  padding.device().is_cpu(),
              "padding is ", padding.toString(), " of shape ", padding.sizes(), ": expected ", sites, " booleans");
  int64_t states = table.size(1);
  check_numbers("table", table, {256, states});
  if (pixel_gram) check_numbers("pixel_gram", *pixel_gram, {states, states});
  for (size_t level = 0; level < weights.size(); ++level) {
    TORCH_CHECK(weights[level].dim() == 3, "weights of level ", level, " have shape ", weights[level].sizes());
    check_numbers("weights", weights[level], {sites >> level, weights[level].size(1), states});
    states = weights[level].size(1);
  }
}

// What the way back needs. One object: Python takes longer to wrap a tensor than a thread to sum it.
struct NodeTape : torch::CustomClassHolder {
  std::unique_ptr<NodeTree<float>> single;
  std::unique_ptr<NodeTree<double>> twice;
};
using NodeTapePointer = c10::intrusive_ptr<NodeTape>;

std::tuple<Tensor, Tensor, Tensor, Tensor, NodeTapePointer> node_forward(
    const Tensor& x, const Tensor& table, const std::optional<Tensor>& pixel_gram, const Tensor& padding,
    const Tensors& weights) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  check(x, table, pixel_gram, padding, weights);
  const auto tape = c10::make_intrusive<NodeTape>();
  const Tensor gram = pixel_gram.value_or(Tensor());
  std::tuple<Tensor, Tensor, Tensor, Tensor> image;
  if (table.scalar_type() == at::kDouble) {
    tape->twice = std::make_unique<NodeTree<double>>(x, table, gram, padding, weights);
    image = tape->twice->image();
  } else {
    tape->single = std::make_unique<NodeTree<float>>(x, table, gram, padding, weights);
    image = tape->single->image();
  }
  return std::tuple_cat(image, std::make_tuple(tape));
}

Tensors node_backward(const NodeTapePointer& tape, const Tensor& of_features, const Tensor& of_gram,
                      bool of_pixels) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Tensor features = of_features.contiguous(), gram = of_gram.contiguous();
  return tape->twice ? tape->twice->gradients(features, gram, of_pixels) : tape->single->gradients(features, gram, of_pixels);
}

}  // namespace
}  // namespace qcnn

TORCH_LIBRARY_FRAGMENT(qcnn_lightning, library) {
  library.class_<qcnn::NodeTape>("NodeTape");
  // The features of the whole image (images, states), their powers of two (images,), the Gram matrix of its states
  // (states, states), theirs (states,), and a tape. pixel_gram: none if the table's functions are orthonormal.
  library.def(
      "node_forward(Tensor x, Tensor table, Tensor? pixel_gram, Tensor padding, Tensor[] weights) -> (Tensor features, "
      "Tensor exponent, Tensor gram, Tensor gram_exponent, __torch__.torch.classes.qcnn_lightning.NodeTape tape)",
      &qcnn::node_forward);
  // The gradients of table, pixel_gram (undefined if there is none; both without of_pixels) and weights.
  library.def(
      "node_backward(__torch__.torch.classes.qcnn_lightning.NodeTape tape, Tensor of_features, Tensor of_gram, bool "
      "of_pixels) -> Tensor[]",
      &qcnn::node_backward);
}
