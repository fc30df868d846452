// The orthogonal factors of many small matrices at once, by Newton and Schulz's iteration (theory.md, eq. N5).
//
// X <- a X + (b A + c A^2) X with A = X X^T takes all singular values of X / |X| near 1. Its products are small: a matrix stays
// in the cache of one thread for all iterations.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include "memory.h"
#include "products.h"
#include "workers.h"

namespace qcnn {
namespace {

template <class T>
class Iteration {
 public:
  Iteration(int64_t rows, int64_t columns)
      : transposed_(rows > columns), rows_(std::min(rows, columns)), columns_(std::max(rows, columns)) {
    height_ = products::padded_to_lanes<T>(rows_), width_ = products::padded_to_lanes<T>(columns_);
    for (auto* buffer : {&x_, &next_}) clear(*buffer, rows_ * width_);
    clear(transpose_, columns_ * height_);
    for (auto* buffer : {&square_, &factor_}) clear(*buffer, rows_ * height_);
  }

  void run(const T* from, T* to, const std::vector<std::array<double, 3>>& coefficients) {
    T *x = x_.of(0), *next = next_.of(0);
    double norm = 0;
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t k = 0; k < columns_; ++k) {
        x[i * width_ + k] = transposed_ ? from[k * rows_ + i] : from[i * columns_ + k];
        norm += double(x[i * width_ + k]) * x[i * width_ + k];
      }
    const T scale = norm > 0 ? T(1 / std::sqrt(norm)) : T(0);
    for (int64_t k = 0; k < rows_ * width_; ++k) x[k] *= scale;
    T *transpose = transpose_.of(0), *square = square_.of(0), *factor = factor_.of(0);
    for (const auto& [a, b, c] : coefficients) {
      for (int64_t k = 0; k < columns_; ++k)
        for (int64_t i = 0; i < rows_; ++i) transpose[k * height_ + i] = x[i * width_ + k];
      products::product(x, width_, int64_t{1}, transpose, height_, square, height_, rows_, height_, columns_, false);
      products::product(square, height_, int64_t{1}, square, height_, factor, height_, rows_, height_, rows_, false);
      for (int64_t k = 0; k < rows_ * height_; ++k) factor[k] = T(b) * square[k] + T(c) * factor[k];
      for (int64_t i = 0; i < rows_; ++i) factor[i * height_ + i] += T(a);
      products::product(factor, height_, int64_t{1}, x, width_, next, width_, rows_, width_, rows_, false);
      std::swap(x, next);
    }
    for (int64_t i = 0; i < rows_; ++i)
      for (int64_t k = 0; k < columns_; ++k) (transposed_ ? to[k * rows_ + i] : to[i * columns_ + k]) = x[i * width_ + k];
  }

 private:
  static void clear(products::Scratch<T>& buffer, int64_t size) { std::fill_n(buffer.of(size), size, T(0)); }

  bool transposed_;
  int64_t rows_, columns_, height_, width_;
  products::Scratch<T> x_, next_, transpose_, square_, factor_;
};

template <class T>
void orthogonalise(const Tensor& matrices, const Tensor& result, const std::vector<std::array<double, 3>>& coefficients) {
  const int64_t size = matrices.size(1) * matrices.size(2), work = size * std::min(matrices.size(1), matrices.size(2));
  workers::parallel_for(matrices.size(0), (1 << 16) / work + 1, [&](int64_t begin, int64_t end) {
    Iteration<T> iteration(matrices.size(1), matrices.size(2));
    for (int64_t k = begin; k < end; ++k) iteration.run(data<T>(matrices) + k * size, data<T>(result) + k * size, coefficients);
  });
}

Tensor orthogonal_factors(const Tensor& matrices, const std::vector<double>& coefficients) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  TORCH_CHECK(matrices.dim() == 3 && matrices.is_contiguous() && matrices.device().is_cpu() &&
                  (matrices.scalar_type() == at::kFloat || matrices.scalar_type() == at::kDouble),
              "matrices are ", matrices.toString(), " of shape ", matrices.sizes(),
              ": expected contiguous float32 or float64 on the CPU of shape (matrices, rows, columns)");
  TORCH_CHECK(coefficients.size() % 3 == 0, "expected three coefficients for every iteration");
  std::vector<std::array<double, 3>> of_iterations(coefficients.size() / 3);
  for (size_t k = 0; k < coefficients.size(); ++k) of_iterations[k / 3][k % 3] = coefficients[k];
  const Tensor result = at::empty_like(matrices);
  if (matrices.numel() == 0) return result;
  if (matrices.scalar_type() == at::kDouble)
    orthogonalise<double>(matrices, result, of_iterations);
  else
    orthogonalise<float>(matrices, result, of_iterations);
  return result;
}

}  // namespace
}  // namespace qcnn

TORCH_LIBRARY_FRAGMENT(qcnn_lightning, library) {
  // The orthogonal factors of (matrices, rows, columns), up to a few percent of their singular values; three coefficients for
  // every iteration.
  library.def("orthogonal_factors(Tensor matrices, float[] coefficients) -> Tensor", &qcnn::orthogonal_factors);
}
