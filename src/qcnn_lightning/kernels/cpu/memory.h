// Tensors without PyTorch's bookkeeping: plain pointers and reused memory.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace qcnn {

using at::Tensor;
using Tensors = std::vector<Tensor>;

template <class T>
T* data(const Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

// Tensors with reused memory. A fresh large allocation makes the system clear pages at every step; a small one costs the
// allocator's search.
class Pool {
 public:
  Tensor empty(at::IntArrayRef sizes, at::TensorOptions options) {
    size_t bytes = options.dtype().itemsize();
    for (const int64_t size : sizes) bytes *= size;
    if (bytes < kSmallestBytes) return at::empty(sizes, options);
    size_t capacity = 0;
    void* memory = nullptr;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      const auto fit = free_.lower_bound(bytes);
      if (fit != free_.end() && fit->first <= 2 * bytes) {
        capacity = fit->first, memory = fit->second;
        free_.erase(fit);
      }
    }
    if (memory == nullptr) {
      capacity = bytes + bytes / 4;  // room for later batches with a few more distinct blocks
      memory = ::operator new(capacity, kAlignment);
    }
    const auto give_back = [this, capacity](void* used) {
      const std::lock_guard<std::mutex> lock(mutex_);
      free_.emplace(capacity, used);
    };
    return at::from_blob(memory, sizes, give_back, options);
  }

 private:
  static constexpr size_t kSmallestBytes = 1 << 10;
  static constexpr std::align_val_t kAlignment{64};
  std::mutex mutex_;
  std::multimap<size_t, void*> free_;
};

inline Tensor pooled(at::IntArrayRef sizes, at::TensorOptions options) {
  static Pool* const pool = new Pool;  // never destroyed: tensors may outlive everything static
  return pool->empty(sizes, options);
}

inline Tensor pooled_zeros(at::IntArrayRef sizes, at::TensorOptions options) {
  const Tensor tensor = pooled(sizes, options);
  std::memset(tensor.mutable_data_ptr(), 0, tensor.nbytes());
  return tensor;
}

}  // namespace qcnn
