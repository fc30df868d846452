// A whole q-CNN as one operator with its gradient: the same mathematics as qcnn.py (eq. 2-10), in fewer operations.
//
// 1. Equal blocks of pixels have equal features wherever they stand, since weights do not depend on the position. So a
//    level holds one *row* for each distinct block of the batch and how often it occurs; level 0 holds the 256 grey
//    levels. A block is known by the rows of its two children.
// 2. Channel 0 is the constant channel (eq. 12): batch norm and convolution are one matrix, the site tensor (eq. 15, 16).
//    Rows are padded with zeros to whole vectors.
// 3. The gradient through the batch's statistics is, for every feature, count * (offset + slope * (feature - mean)), with
//    offset and slope from small matrices.
//
// 4. On processors with matrix units, float32 products are taken by these: see products.h.
//
// Every number is summed in an order that neither threads nor earlier calls change, so results repeat bit by bit.

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

#include "products.h"
#include "workers.h"

namespace {

using at::Tensor;
using products::kBlockRows;
using products::kOuterRows;
using Tensors = std::vector<Tensor>;

constexpr int64_t kPartImages = 250;  // images evaluated at a time: more share more blocks, fewer stay in the cache
constexpr int64_t kChunkRows = 512;  // most rows of a piece of work
constexpr int64_t kTileRows = 16;    // such pieces are multiples of them
constexpr int64_t kAhead = 4;        // rows from now is what is fetched from memory ahead of its turn
constexpr int64_t kThreadWork = 1 << 14;  // numbers that are worth waking another thread for

template <class T>
int64_t padded(int64_t channels) {  // the constant channel, then the others, then zeros
  return products::padded_to_lanes<T>(1 + channels);
}

template <class T>
T* data(const Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

// Tensors whose memory is used again. Large ones, freshly allocated, are memory that the system has to clear page by page, at
// every step anew; smaller ones cost the allocator's search for room.
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
      capacity = bytes + bytes / 4;  // so that a later batch of a few more distinct blocks fits, too
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

Tensor pooled(at::IntArrayRef sizes, at::TensorOptions options) {
  static Pool* const pool = new Pool;  // never destroyed: tensors may outlive everything static
  return pool->empty(sizes, options);
}

Tensor pooled_zeros(at::IntArrayRef sizes, at::TensorOptions options) {
  const Tensor tensor = pooled(sizes, options);
  std::memset(tensor.mutable_data_ptr(), 0, tensor.nbytes());
  return tensor;
}

// The distinct blocks entering one level. Rows from first_right on are right children, where those have their own matrix.
struct Blocks {
  int64_t rows, first_right, occurrences;
  Tensor left, right;  // (rows,) the rows of a block's children one level below
  Tensor count;        // (rows,) how often it occurs in the batch
};

// Number the blocks in the order in which they are first met. ids: on entry the row of every site's feature one level
// below, (images, 2 * sites); on return that of every block, (images, sites).
template <class T>
Blocks find_blocks(Tensor& ids, int64_t images, int64_t sites, int64_t matrices, bool of_grey_levels, const Tensor& like) {
  const int64_t occurrences = images * sites;
  Blocks blocks{0, 0, occurrences, pooled({occurrences}, at::kInt), pooled({occurrences}, at::kInt),
                pooled_zeros({occurrences}, like.options())};
  int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  T* count = data<T>(blocks.count);
  int bits = of_grey_levels ? 16 : 4;
  while (!of_grey_levels && (int64_t{1} << bits) < 2 * occurrences / matrices) ++bits;
  const Tensor found = pooled({occurrences}, at::kInt), table = pooled({int64_t{1} << bits}, at::kInt);
  const int32_t* children = data<int32_t>(ids);
  int32_t *own = data<int32_t>(found), *slots = data<int32_t>(table);
  int32_t rows = 0;
  // With one matrix for both children, (a, b) and (b, a) have the same features; with two, a < b always.
  const auto children_of = [&](int64_t site) { return std::minmax(children[2 * site], children[2 * site + 1]); };
  for (int64_t side = 0; side < matrices; ++side) {
    blocks.first_right = rows;
    std::fill_n(slots, table.numel(), -1);
    if (of_grey_levels) {  // a slot for every pair, and no branch, which would be guessed wrong half of the time
      for (int64_t site = side; site < occurrences; site += matrices) {
        const auto [first, second] = children_of(site);
        int32_t& slot = slots[first << 8 | (second & 255)];
        const bool is_new = slot < 0;
        const int32_t row = is_new ? rows : slot;
        slot = own[site] = row;
        left[row] = first, right[row] = second;
        count[row] += 1;
        rows += is_new;
      }
      continue;
    }
    const uint64_t last_slot = table.numel() - 1;
    for (int64_t site = side; site < occurrences; site += matrices) {
      const auto [first, second] = children_of(site);
      const uint64_t key = (uint64_t(first) << 32 | uint64_t(second)) * 0x9E3779B97F4A7C15u;
      uint64_t slot = (key ^ key >> 32) * 0x9E3779B97F4A7C15u >> (64 - bits);
      int32_t row = slots[slot];
      while (row >= 0 && (left[row] != first || right[row] != second)) {
        slot = (slot + 1) & last_slot;
        row = slots[slot];
      }
      if (row < 0) {
        row = slots[slot] = rows++;
        left[row] = first, right[row] = second;
      }
      own[site] = row;
      count[row] += 1;
    }
  }
  if (matrices == 1) blocks.first_right = rows;
  blocks.rows = rows;
  ids = found;
  return blocks;
}

// Level 0: the "blocks" are the grey levels, of left and of right pixels where those have their own matrix.
template <class T>
Blocks find_grey_levels(Tensor& ids, const Tensor& x, int64_t matrices, const Tensor& like) {
  const uint8_t* pixels = data<uint8_t>(x);
  Blocks blocks{256 * matrices, 256, x.numel(), {}, {}, at::empty({256 * matrices}, like.options())};
  ids = pooled({x.numel()}, at::kInt);
  int32_t* own = data<int32_t>(ids);
  int64_t counts[512] = {};
  for (int64_t pair = 0; pair < x.numel(); pair += 2) {  // equal neighbours must not wait for each other's count
    own[pair] = pixels[pair];
    own[pair + 1] = pixels[pair + 1] + 256 * (matrices - 1);
    ++counts[pixels[pair]], ++counts[256 + pixels[pair + 1]];
  }
  for (int64_t level = 0; level < 256; ++level) {
    T* count = data<T>(blocks.count) + level;
    count[0] = counts[level] + (matrices == 1 ? counts[256 + level] : 0);
    if (matrices == 2) count[256] = counts[256 + level];
  }
  return blocks;
}

// The features of some rows entering a level: products of children's mapped features (eq. 8), or the basis functions of
// grey levels.
template <class T>
void pool_rows(const Blocks& blocks, const Tensor& mapped, const Tensor& table, int64_t first, int64_t rows, T* output) {
  if (!blocks.left.defined()) {
    const int64_t channels = table.size(1), width = padded<T>(channels);
    for (int64_t row = first; row < first + rows; ++row, output += width) {
      std::fill_n(output, width, T(0));
      output[0] = 1;
      std::copy_n(data<T>(table) + row % 256 * channels, channels, output + 1);
    }
    return;
  }
  const int64_t width = mapped.size(1);
  const T* input = data<T>(mapped);
  const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  for (int64_t row = first; row < first + rows; ++row, output += width) {
    const T *a = input + left[row] * width, *b = input + right[row] * width;
    if (row + kAhead < first + rows)
      for (int64_t k = 0; k < width; k += 64 / sizeof(T)) {
        __builtin_prefetch(input + left[row + kAhead] * width + k);
        __builtin_prefetch(input + right[row + kAhead] * width + k);
      }
    for (int64_t k = 0; k < width; ++k) output[k] = a[k] * b[k];
  }
}

// How the rows of a level are shared out among threads: each side in as many pieces, which depend on the blocks alone. The
// first pieces are those of the first images, so that most children of a thread's rows are its own.
class Chunks {
 public:
  explicit Chunks(const Blocks& blocks)
      : rows_{blocks.first_right, blocks.rows - blocks.first_right}, sides_(rows_[1] > 0 ? 2 : 1) {
    const int64_t most = std::max(rows_[0], rows_[1]);
    if (most > 2 * kBlockRows) pieces_ = 2 * ((most + 2 * kChunkRows - 1) / (2 * kChunkRows));
  }
  int64_t count() const { return pieces_ * sides_; }
  int64_t side(int64_t chunk) const { return chunk % sides_; }
  int64_t begin(int64_t chunk) const { return border(chunk, chunk / sides_); }
  int64_t end(int64_t chunk) const { return border(chunk, chunk / sides_ + 1); }

  // Calls work(chunk, begin, end, side) for every chunk that has rows, in parallel.
  template <class Work>
  void for_each(const Work& work) const {
    workers::parallel_for(count(), 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk)
        if (begin(chunk) < end(chunk)) work(chunk, begin(chunk), end(chunk), side(chunk));
    });
  }

 private:
  int64_t border(int64_t chunk, int64_t piece) const {
    const int64_t rows = rows_[side(chunk)], size = (rows + pieces_ * kTileRows - 1) / (pieces_ * kTileRows) * kTileRows;
    return (side(chunk) ? rows_[0] : 0) + std::min(piece * size, rows);
  }
  int64_t rows_[2], sides_, pieces_ = 1;
};

// The features entering a level, and their mean and biased variance over all occurrences (eq. 4) if these are asked for:
// about the first row, lest squares cancel.
template <class T>
Tensor pool(const Blocks& blocks, const Tensor& mapped, const Tensor& table, const Tensor& mean, const Tensor& var) {
  const int64_t width = blocks.left.defined() ? mapped.size(1) : padded<T>(table.size(1));
  const Tensor features = pooled({blocks.rows, width}, table.options());
  T *values = data<T>(features), *count = data<T>(blocks.count);
  if (!mean.defined()) {
    Chunks(blocks).for_each([&](int64_t, int64_t begin, int64_t end, int64_t) {
      pool_rows(blocks, mapped, table, begin, end - begin, values + begin * width);
    });
    return features;
  }
  std::vector<T> first(width);
  pool_rows(blocks, mapped, table, 0, 1, first.data());
  const Chunks chunks(blocks);
  const Tensor partial = pooled_zeros({chunks.count(), 2, width}, features.options());
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end, int64_t) {
    T* sum = data<T>(partial) + chunk * 2 * width;
    T* squares = sum + width;
    for (int64_t block = begin; block < end; block += kBlockRows) {
      const int64_t last = std::min(block + kBlockRows, end);
      pool_rows(blocks, mapped, table, block, last - block, values + block * width);
      for (int64_t row = block; row < last; ++row) {
        const T* feature = values + row * width;
        for (int64_t k = 0; k < width; ++k) {
          const T difference = feature[k] - first[k], weighted = count[row] * difference;
          sum[k] += weighted;
          squares[k] += weighted * difference;
        }
      }
    }
  });
  std::vector<double> total(2 * width);
  const T* sums = data<T>(partial);
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk)
    for (int64_t k = 0; k < 2 * width; ++k) total[k] += sums[chunk * 2 * width + k];
  T *means = data<T>(mean), *variances = data<T>(var);
  for (int64_t k = 0; k < mean.numel(); ++k) {
    const double shift = total[1 + k] / blocks.occurrences;
    means[k] = first[1 + k] + shift;
    variances[k] = std::max(total[width + 1 + k] / blocks.occurrences - shift * shift, 0.0);
  }
  return features;
}

// running += momentum (factor value - running), as PyTorch's batch norm keeps its averages.
template <class T>
void move_towards(const Tensor& running, const Tensor& value, T factor, T momentum) {
  T* average = data<T>(running);
  const T* target = data<T>(value);
  for (int64_t k = 0; k < running.numel(); ++k) average[k] += momentum * (factor * target[k] - average[k]);
}

// What batch norm with given statistics is: x -> scale (x - center) + beta (eq. 4). The center is taken off before
// anything is multiplied, so that what is rounded is the variation alone.
template <class T>
struct Affine {
  std::vector<T> deviation, scale, beta, center;  // deviation: 1 / sqrt(var + epsilon); center: 0 for the constant channel
  Affine(const Tensor& gamma, const Tensor& betas, const Tensor& mean, const Tensor& var, double epsilon)
      : deviation(gamma.numel()), scale(gamma.numel()), beta(gamma.numel()), center(padded<T>(gamma.numel())) {
    const T *gammas = data<T>(gamma), *means = data<T>(mean), *variances = data<T>(var);
    for (int64_t k = 0; k < gamma.numel(); ++k) {
      deviation[k] = 1 / std::sqrt(variances[k] + T(epsilon));
      scale[k] = gammas[k] * deviation[k];
      beta[k] = data<T>(betas)[k];
      center[1 + k] = means[k];
    }
  }
};

// The site tensors of one level for centered features, [[1, 0], [a beta, a diag(scale)]] (eq. 15): (matrices,
// padded(outputs), padded(inputs)).
template <class T>
Tensor site_tensors_of(const Tensor& weight, const Affine<T>& norm) {
  const int64_t matrices = weight.size(0), outputs = weight.size(1), inputs = weight.size(2);
  const int64_t height = padded<T>(outputs), width = padded<T>(inputs);
  const Tensor site_tensors = pooled({matrices, height, width}, weight.options());
  workers::parallel_for(matrices * height, kThreadWork / width + 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      T* const site = data<T>(site_tensors) + row * width;
      const int64_t output = row % height - 1;
      std::fill_n(site, width, T(0));
      if (output == -1) site[0] = 1;
      if (output < 0 || output >= outputs) continue;
      const T* a = data<T>(weight) + (row / height * outputs + output) * inputs;
      T shift = 0;
      for (int64_t k = 0; k < inputs; ++k) {
        site[1 + k] = a[k] * norm.scale[k];
        shift += a[k] * norm.beta[k];
      }
      site[0] = shift;
    }
  });
  return site_tensors;
}

// The site tensors of one level, to be applied to rows.
template <class T>
class SiteTensors {
 public:
  SiteTensors(const Tensor& site_tensors, std::vector<T> center, bool may_split)
      : mapped_width_(site_tensors.size(1)), center_(std::move(center)), options_(site_tensors.options()) {
    const int64_t width = site_tensors.size(2);
    for (int64_t side = 0; side < site_tensors.size(0); ++side)
      factors_.emplace_back(data<T>(site_tensors) + side * mapped_width_ * width, products::Layout::kColumns, width,
                            mapped_width_, width, may_split);
  }

  // features_of(row, rows, buffer) returns the features of up to kBlockRows rows, in the buffer if it has to make them. It
  // gets them back centered.
  template <class Features>
  Tensor map(const Blocks& blocks, const Features& features_of) const {
    Tensor mapped = pooled({blocks.rows, mapped_width_}, options_);
    T* output = data<T>(mapped);
    const int64_t width = center_.size();
    Chunks(blocks).for_each([&](int64_t, int64_t begin, int64_t end, int64_t side) {
      static thread_local products::Scratch<T> buffer;
      for (int64_t row = begin; row < end; row += kBlockRows) {
        const int64_t rows = std::min(kBlockRows, end - row);
        T* const features = features_of(row, rows, buffer.of(kBlockRows * width));
        for (int64_t i = 0; i < rows; ++i)
          for (int64_t k = 0; k < width; ++k) features[i * width + k] -= center_[k];
        factors_[factors_.size() == 2 ? side : 0].multiply(features, width, output + row * mapped_width_, mapped_width_,
                                                           rows);
      }
    });
    return mapped;
  }

 private:
  int64_t mapped_width_;
  std::vector<T> center_;
  at::TensorOptions options_;
  std::vector<products::RightFactor<T>> factors_;
};

// The gradient of a level's site tensors, (matrices, padded(outputs), padded(inputs)), of which the first row and what is
// behind the outputs do not count; and, if it is asked for, that of the features through the site tensors alone, not
// through the statistics.
template <class T>
std::pair<Tensor, Tensor> level_gradients(const Blocks& blocks, const Tensor& features, const Tensor& mapped_gradient,
                                          const Tensor& site_tensors, int64_t outputs, bool of_features,
                                          bool may_split) {
  const int64_t matrices = site_tensors.size(0), width = features.size(1), mapped_width = mapped_gradient.size(1);
  const int64_t size = mapped_width * width;
  std::vector<products::RightFactor<T>> factors;
  Tensor gradient;
  if (of_features) {
    gradient = pooled(features.sizes(), features.options());
    for (int64_t side = 0; side < matrices; ++side)
      factors.emplace_back(data<T>(site_tensors) + side * size, products::Layout::kRows, 1 + outputs, width, width,
                           may_split);
  }
  const Chunks chunks(blocks);
  const Tensor partial = pooled({chunks.count(), mapped_width, width}, features.options());
  const T *feature = data<T>(features), *above = data<T>(mapped_gradient);
  chunks.for_each([&](int64_t chunk, int64_t begin, int64_t end, int64_t side) {
    for (int64_t row = begin; row < end; row += kOuterRows)
      products::outer_products(above + row * mapped_width, mapped_width, 1 + outputs, feature + row * width, width,
                               data<T>(partial) + chunk * size, std::min(kOuterRows, end - row), row > begin, may_split);
    if (of_features)
      factors[matrices == 2 ? side : 0].multiply(above + begin * mapped_width, mapped_width,
                                                 data<T>(gradient) + begin * width, width, end - begin);
  });
  if (partial.size(0) == matrices) return {partial, gradient};
  const Tensor site_gradient = at::zeros({matrices, mapped_width, width}, features.options());
  for (int64_t chunk = 0; chunk < chunks.count(); ++chunk) {
    if (chunks.begin(chunk) == chunks.end(chunk)) continue;
    const T* part = data<T>(partial) + chunk * size;
    T* sum = data<T>(site_gradient) + chunks.side(chunk) * size;
    for (int64_t k = width; k < (1 + outputs) * width; ++k) sum[k] += part[k];
  }
  return {site_gradient, gradient};
}

// The blocks that each row one level below is part of, row after row, from first[row] to first[row + 1]: their own rows and
// those of the other child. A block whose children are equal is there twice.
struct Parents {
  std::vector<int32_t> first, parent, sibling;
  Parents(const Blocks& blocks, int64_t children) : first(children + 1), parent(2 * blocks.rows), sibling(2 * blocks.rows) {
    const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
    for (int64_t row = 0; row < blocks.rows; ++row) ++first[left[row]], ++first[right[row]];
    for (int64_t child = 0, sum = 0; child <= children; ++child) sum += std::exchange(first[child], sum);
    std::vector<int32_t> next(first);
    for (int64_t row = 0; row < blocks.rows; ++row)
      for (const auto& [child, other] : {std::pair(left[row], right[row]), std::pair(right[row], left[row])}) {
        const int32_t place = next[child]++;
        parent[place] = row, sibling[place] = other;
      }
  }
};

// Back through pooling: a child's gradient is the sum, over the blocks it is part of, of theirs times its sibling. That of
// a block gets its part through the statistics here: count * (offset + slope * (feature - mean)).
template <class T, int64_t Bytes>
void gather_from_parents(const Blocks& blocks, const Tensor& gradient, const Tensor& mapped, const std::vector<T>& offset,
                         const std::vector<T>& slope, const std::vector<T>& center, const Tensor& mapped_gradient) {
  using Vector = products::Lanes<T, Bytes>;
  const int64_t vectors = mapped.size(1) * sizeof(T) / Bytes, children = mapped.size(0);
  const T* count = data<T>(blocks.count);
  const auto of = [](const T* numbers) { return reinterpret_cast<const Vector*>(numbers); };
  const auto lanes_of = [](const std::vector<T>& numbers, int64_t v) {
    Vector some;
    std::memcpy(&some, numbers.data() + v * (Bytes / sizeof(T)), Bytes);
    return some;
  };
  const Vector *above = of(data<T>(gradient)), *value = of(data<T>(mapped));
  Vector* const output = reinterpret_cast<Vector*>(data<T>(mapped_gradient));
  const Parents parents(blocks, children);
  // threads get equal numbers of parents, not of children
  const int64_t entries = 2 * blocks.rows;
  const auto child_at = [&](int64_t entry) {
    return std::lower_bound(parents.first.begin(), parents.first.end() - 1, entry) - parents.first.begin();
  };
  workers::parallel_for(entries, kThreadWork / mapped.size(1) + 1, [&](int64_t begin, int64_t end) {
    const int64_t last = end == entries ? children : child_at(end);
    for (int64_t child = begin == 0 ? 0 : child_at(begin); child < last; ++child) {
      const Vector* const own = value + child * vectors;
      Vector* const sum = output + child * vectors;
      std::fill_n(sum, vectors, Vector{});
      for (int64_t entry = parents.first[child]; entry < parents.first[child + 1]; ++entry) {
        const Vector* const sibling = value + parents.sibling[entry] * vectors;
        const Vector* const g = above + parents.parent[entry] * vectors;
        const T occurrences = count[parents.parent[entry]];
        const int64_t ahead = std::min(entry + kAhead, entries - 1);
        for (int64_t v = 0; v < vectors; ++v) {
          __builtin_prefetch(above + parents.parent[ahead] * vectors + v);
          __builtin_prefetch(value + parents.sibling[ahead] * vectors + v);
        }
        for (int64_t v = 0; v < vectors; ++v) {
          const Vector variation = own[v] * sibling[v] - lanes_of(center, v);
          const Vector through_statistics = lanes_of(offset, v) + lanes_of(slope, v) * variation;
          sum[v] += (g[v] + occurrences * through_statistics) * sibling[v];
        }
      }
    }
  });
}

template <class T>
Tensor mapped_gradient_below(const Blocks& blocks, const Tensor& gradient, const Tensor& mapped,
                             const std::vector<T>& offset, const std::vector<T>& slope,
                             const std::vector<T>& center) {
  const Tensor mapped_gradient = pooled(mapped.sizes(), mapped.options());
  const auto gather = mapped.size(1) * sizeof(T) % products::kWidestBytes == 0
                          ? gather_from_parents<T, products::kWidestBytes>
                          : gather_from_parents<T, products::kNarrowBytes>;
  gather(blocks, gradient, mapped, offset, slope, center, mapped_gradient);
  return mapped_gradient;
}

// What the scores depend on besides gamma, beta and weight of every level, one after the other as `Parameters`.
struct Setting {
  Tensor x, table;
  Tensors mean, var;  // to normalise by; empty for those of the batch
  Tensors running_mean, running_var;
  double momentum;
  std::vector<double> epsilon;
  bool may_split;  // float32 products in parts: see products.h
};

struct Parameters {
  at::TensorList all;
  int64_t levels = all.size() / 3;
  const Tensor& gamma(int64_t level) const { return all[level]; }
  const Tensor& beta(int64_t level) const { return all[levels + level]; }
  const Tensor& weight(int64_t level) const { return all[2 * levels + level]; }
};

// What is read by plain pointers has to have the type and the shape that they take for granted.
void check(const Setting& setting, const Parameters& parameters) {
  const Tensor& x = setting.x;
  const int64_t levels = parameters.levels, sites = int64_t{1} << (levels - 1);
  const auto type = setting.table.scalar_type();
  const auto check_numbers = [&](const char* name, const Tensor& numbers, at::IntArrayRef sizes) {
    TORCH_CHECK(numbers.sizes() == sizes && numbers.scalar_type() == type && numbers.is_contiguous() &&
                    numbers.device().is_cpu(),
                name, " is ", numbers.toString(), " of shape ", numbers.sizes(), ": expected contiguous ", type,
                " on the CPU of shape ", sizes);
  };
  TORCH_CHECK(type == at::kFloat || type == at::kDouble, "table is ", type, ": expected float32 or float64");
  TORCH_CHECK(levels >= 2 && parameters.all.size() == size_t(3 * levels) && setting.epsilon.size() == size_t(levels),
              "expected gamma, beta, weight and epsilon of at least 2 levels");
  TORCH_CHECK(x.dim() == 2 && x.size(0) > 0 && x.size(1) == sites && x.scalar_type() == at::kByte &&
                  x.is_contiguous() && x.device().is_cpu(),
              "x is ", x.toString(), " of shape ", x.sizes(), ": expected contiguous uint8 on the CPU of shape (batch, ",
              sites, "), at least one image");
  int64_t inputs = parameters.weight(0).size(-1);
  check_numbers("table", setting.table, {256, inputs});
  for (int64_t level = 0; level < levels; ++level) {
    const Tensor& weight = parameters.weight(level);
    TORCH_CHECK(weight.dim() == 3 && (weight.size(0) == 1 || (weight.size(0) == 2 && level < levels - 1)), "weight ",
                level, " has shape ", weight.sizes(), ": expected 1 matrix, or 2 below the classification");
    check_numbers("weight", weight, {weight.size(0), weight.size(1), inputs});
    check_numbers("gamma", parameters.gamma(level), {inputs});
    check_numbers("beta", parameters.beta(level), {inputs});
    for (const Tensors* each : {&setting.mean, &setting.var, &setting.running_mean, &setting.running_var}) {
      TORCH_CHECK(each->empty() || each->size() == size_t(levels), "statistics of ", each->size(), " levels for ", levels);
      if (!each->empty()) check_numbers("a statistic", (*each)[level], {inputs});
    }
    inputs = weight.size(1);
  }
}

void check_labels(const Tensor& labels, int64_t images, int64_t classes) {
  TORCH_CHECK(labels.dim() == 1 && labels.size(0) == images && labels.scalar_type() == at::kLong &&
                  labels.is_contiguous() && labels.device().is_cpu(),
              "labels are ", labels.toString(), " of shape ", labels.sizes(), ": expected contiguous int64 on the CPU, one for each of ",
              images, " images");
  const int64_t* label = data<int64_t>(labels);
  for (int64_t image = 0; image < images; ++image)
    TORCH_CHECK(0 <= label[image] && label[image] < classes, "label ", label[image], " of image ", image, ": expected 0 to ",
                classes - 1);
}

constexpr int64_t kKept = 6;  // tensors of a level that its gradient needs

struct Forward {
  Tensor alpha;
  Tensors mean, var, saved;
  std::vector<int64_t> first_right;
};

template <class T>
Tensor scores(const Tensor& mapped, const Tensor& ids, int64_t images, int64_t classes) {
  Tensor alpha = at::empty({images, classes}, mapped.options());
  const T* last = data<T>(mapped);
  const int32_t* row = data<int32_t>(ids);
  for (int64_t image = 0; image < images; ++image)
    std::copy_n(last + row[image] * mapped.size(1) + 1, classes, data<T>(alpha) + image * classes);
  return alpha;
}

template <class T>
Blocks next_blocks(Tensor& ids, const Tensor& x, int64_t level, int64_t matrices, const Tensor& like) {
  return level == 0 ? find_grey_levels<T>(ids, x, matrices, like)
                    : find_blocks<T>(ids, x.size(0), x.size(1) >> level, matrices, level == 1, like);
}

template <class T>
Forward forward(const Setting& setting, const Parameters& parameters, bool keep) {
  const Tensor &x = setting.x, &table = setting.table;
  Forward result{{}, setting.mean, setting.var, {}, {}};
  const bool of_batch = setting.mean.empty();
  Tensor ids, mapped;
  for (int64_t level = 0; level < parameters.levels; ++level) {
    const Tensor &gamma = parameters.gamma(level), &weight = parameters.weight(level);
    const Blocks blocks = next_blocks<T>(ids, x, level, weight.size(0), table);
    if (of_batch) {
      result.mean.push_back(at::empty_like(gamma));
      result.var.push_back(at::empty_like(gamma));
    }
    const Tensor features = pool<T>(blocks, mapped, table, of_batch ? result.mean[level] : Tensor(),
                                    of_batch ? result.var[level] : Tensor());
    if (!setting.running_mean.empty()) {
      const T unbiased = T(blocks.occurrences) / std::max<int64_t>(blocks.occurrences - 1, 1);
      move_towards<T>(setting.running_mean[level], result.mean[level], 1, setting.momentum);
      move_towards<T>(setting.running_var[level], result.var[level], unbiased, setting.momentum);
    }
    const Affine<T> norm(gamma, parameters.beta(level), result.mean[level], result.var[level], setting.epsilon[level]);
    const Tensor site_tensors = site_tensors_of<T>(weight, norm);
    mapped = SiteTensors<T>(site_tensors, norm.center, setting.may_split).map(blocks, [&](int64_t row, int64_t, T*) {
      return data<T>(features) + row * features.size(1);
    });
    if (keep) {
      for (const Tensor& tensor : {blocks.left, blocks.right, blocks.count, features, site_tensors, mapped})
        result.saved.push_back(tensor.defined() ? tensor : at::empty({0}, at::kInt));
      result.first_right.push_back(blocks.first_right);
    }
  }
  result.alpha = scores<T>(mapped, ids, x.size(0), parameters.weight(parameters.levels - 1).size(1));
  if (keep) result.saved.push_back(ids);
  return result;
}

// The scores by fixed statistics. They do not depend on what else is in the batch: all images share the pairs of grey
// levels, of which there are few, and then threads share out the images.
template <class T>
Tensor evaluate(const Setting& setting, const Parameters& parameters) {
  const Tensor &x = setting.x, &table = setting.table;
  const int64_t images = x.size(0), sites = x.size(1), shared = std::min<int64_t>(parameters.levels, 2);
  const int64_t classes = parameters.weight(parameters.levels - 1).size(1);
  Tensor alpha = at::empty({images, classes}, table.options());
  std::vector<SiteTensors<T>> site_tensors;
  for (int64_t level = 0; level < parameters.levels; ++level) {
    const Affine<T> norm(parameters.gamma(level), parameters.beta(level), setting.mean[level], setting.var[level],
                         setting.epsilon[level]);
    site_tensors.emplace_back(site_tensors_of<T>(parameters.weight(level), norm), norm.center, setting.may_split);
  }
  const auto map_level = [&](int64_t level, const Tensor& some, Tensor& ids, const Tensor& below) {
    const Blocks blocks = next_blocks<T>(ids, some, level, parameters.weight(level).size(0), table);
    return site_tensors[level].map(blocks, [&](int64_t row, int64_t rows, T* buffer) {
      pool_rows(blocks, below, table, row, rows, buffer);
      return buffer;
    });
  };
  Tensor shared_ids, shared_rows;
  for (int64_t level = 0; level < shared; ++level) shared_rows = map_level(level, x, shared_ids, shared_rows);
  const int64_t ids_per_image = sites >> (shared - 1);
  workers::parallel_for((images + kPartImages - 1) / kPartImages, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kPartImages; first < std::min(end * kPartImages, images); first += kPartImages) {
      const int64_t count = std::min(kPartImages, images - first);
      const Tensor part = x.narrow(0, first, count);
      Tensor mapped = shared_rows;
      Tensor ids = at::from_blob(data<int32_t>(shared_ids) + first * ids_per_image, {count * ids_per_image}, at::kInt);
      for (int64_t level = shared; level < parameters.levels; ++level) mapped = map_level(level, part, ids, mapped);
      std::copy_n(data<T>(scores<T>(mapped, ids, count, classes)), count * classes, data<T>(alpha) + first * classes);
    }
  });
  return alpha;
}

template <class T>
Tensors backward(const Tensor& alpha_gradient, const Parameters& parameters, at::TensorList mean, at::TensorList var,
                 at::TensorList saved, const std::vector<int64_t>& first_right, const std::vector<double>& epsilon,
                 bool of_batch, bool may_split) {
  const int64_t levels = parameters.levels, images = alpha_gradient.size(0), classes = alpha_gradient.size(1);
  Tensors gradients(3 * levels);
  Tensor mapped_gradient = at::zeros_like(saved[kKept * levels - 1]);
  const int32_t* ids = data<int32_t>(saved.back());
  T* last = data<T>(mapped_gradient);
  const T* given = data<T>(alpha_gradient);
  for (int64_t image = 0; image < images; ++image)
    for (int64_t k = 0; k < classes; ++k)
      last[ids[image] * mapped_gradient.size(1) + 1 + k] += given[image * classes + k];

  for (int64_t level = levels - 1; level >= 0; --level) {
    const Tensor* kept = &saved[kKept * level];
    const Tensor &weight = parameters.weight(level), &gamma = parameters.gamma(level);
    Tensor &gamma_gradient = gradients[level], &beta_gradient = gradients[levels + level];
    Tensor& weight_gradient = gradients[2 * levels + level];
    const Tensor& features = kept[3];
    const int64_t width = features.size(1), matrices = weight.size(0);
    const int64_t outputs = weight.size(1), inputs = weight.size(2);
    const Blocks blocks{features.size(0), first_right[level], images << (levels - 1 - level), kept[0], kept[1], kept[2]};
    const Affine<T> norm(gamma, parameters.beta(level), mean[level], var[level], epsilon[level]);

    const auto [site_gradient, gradient] =
        level_gradients<T>(blocks, features, mapped_gradient, kept[4], outputs, level > 0, may_split);
    weight_gradient = at::empty_like(weight);
    std::vector<T> scale_gradient(inputs), shift_gradient(inputs), offset(width), slope(width);
    for (int64_t row = 0; row < matrices * outputs; ++row) {
      const T* const a = data<T>(weight) + row * inputs;
      const T* const site = data<T>(site_gradient) + (row / outputs * mapped_gradient.size(1) + 1 + row % outputs) * width;
      T* const a_gradient = data<T>(weight_gradient) + row * inputs;
      T *const scales = scale_gradient.data(), *const shifts = shift_gradient.data();
#pragma GCC ivdep
      for (int64_t k = 0; k < inputs; ++k) {
        a_gradient[k] = site[1 + k] * norm.scale[k] + site[0] * norm.beta[k];
        scales[k] += site[1 + k] * a[k];
        shifts[k] += site[0] * a[k];
      }
    }
    gamma_gradient = at::empty_like(gamma);
    beta_gradient = at::empty_like(gamma);
    T *gammas = data<T>(gamma_gradient), *betas = data<T>(beta_gradient);
    for (int64_t k = 0; k < inputs; ++k) {
      betas[k] = shift_gradient[k];
      gammas[k] = scale_gradient[k] * norm.deviation[k];
      if (!of_batch) continue;
      slope[1 + k] = -scale_gradient[k] * norm.scale[k] * norm.deviation[k] * norm.deviation[k] / blocks.occurrences;
      offset[1 + k] = -norm.scale[k] * shift_gradient[k] / blocks.occurrences;
    }
    if (level > 0)
      mapped_gradient =
          mapped_gradient_below<T>(blocks, gradient, saved[kKept * level - 1], offset, slope, norm.center);
  }
  return gradients;
}

class Alpha : public torch::autograd::Function<Alpha> {
 public:
  // Returns the scores, and mean and variance of every level, which have no gradients of their own.
  static Tensors forward(torch::autograd::AutogradContext* context, at::TensorList all, const Setting& setting,
                         bool keep) {
    const Parameters parameters{all};
    const bool is_double = setting.table.scalar_type() == at::kDouble;
    if (!setting.mean.empty() && !keep) {
      Tensors outputs{is_double ? evaluate<double>(setting, parameters) : evaluate<float>(setting, parameters)};
      for (const Tensors* given : {&setting.mean, &setting.var})
        outputs.insert(outputs.end(), given->begin(), given->end());
      return outputs;
    }
    const auto run = is_double ? &::forward<double> : &::forward<float>;
    Forward result = run(setting, parameters, keep);
    Tensors outputs = result.mean;
    outputs.insert(outputs.end(), result.var.begin(), result.var.end());
    if (keep) {
      context->mark_non_differentiable(outputs);
      Tensors saved = all.vec();
      for (const Tensors* kept : {&outputs, &result.saved}) saved.insert(saved.end(), kept->begin(), kept->end());
      context->save_for_backward(std::move(saved));
      context->saved_data["first_right"] = result.first_right;
      context->saved_data["epsilon"] = setting.epsilon;
      context->saved_data["of_batch"] = setting.mean.empty();
      context->saved_data["may_split"] = setting.may_split;
    }
    outputs.insert(outputs.begin(), result.alpha);
    return outputs;
  }

  static Tensors backward(torch::autograd::AutogradContext* context, const Tensors& output_gradients) {
    TORCH_CHECK(!at::GradMode::is_enabled(), "the fused kernel has first derivatives only; choose model.kernel=plain");
    const Tensors kept = context->get_saved_variables();
    const at::TensorList saved = kept;
    const auto first_right = context->saved_data["first_right"].toIntVector();
    const size_t levels = first_right.size();
    const auto run = kept[0].scalar_type() == at::kDouble ? &::backward<double> : &::backward<float>;
    Tensors gradients =
        run(output_gradients[0].contiguous(), {saved.slice(0, 3 * levels)}, saved.slice(3 * levels, levels),
            saved.slice(4 * levels, levels), saved.slice(5 * levels), first_right,
            context->saved_data["epsilon"].toDoubleVector(), context->saved_data["of_batch"].toBool(),
            context->saved_data["may_split"].toBool());
    gradients.resize(gradients.size() + 2);  // of setting and keep, none
    return gradients;
  }
};

std::tuple<Tensor, Tensors, Tensors> alpha(const Tensor& x, const Tensor& table, const Tensors& parameters,
                                           const Tensors& mean, const Tensors& var, const Tensors& running_mean,
                                           const Tensors& running_var, double momentum,
                                           const std::vector<double>& epsilon, bool may_split) {
  const Setting setting{x, table, mean, var, running_mean, running_var, momentum, epsilon, may_split};
  check(setting, Parameters{parameters});
  const bool keep = at::GradMode::is_enabled() && std::any_of(parameters.begin(), parameters.end(), [](const Tensor& p) {
                      return p.requires_grad();
                    });
  const Tensors outputs = Alpha::apply(at::TensorList(parameters), setting, keep);
  const auto first_var = outputs.begin() + 1 + epsilon.size();
  return {outputs[0], Tensors(outputs.begin() + 1, first_var), Tensors(first_var, outputs.end())};
}

// The mean over the images of sum_y (alpha_y - delta_{y, label})^2 (eq. 48); every parameter's `grad` becomes its gradient.
template <class T>
double backpropagate_cost_of(const Setting& setting, const Tensor& labels, const Parameters& parameters) {
  const Forward result = forward<T>(setting, parameters, true);
  const int64_t images = result.alpha.size(0), classes = result.alpha.size(1);
  Tensor alpha_gradient = at::empty_like(result.alpha);
  const T* alpha = data<T>(result.alpha);
  T* gradient = data<T>(alpha_gradient);
  const int64_t* label = data<int64_t>(labels);
  double cost = 0;
  for (int64_t image = 0; image < images; ++image)
    for (int64_t k = 0; k < classes; ++k) {
      const T difference = alpha[image * classes + k] - T(label[image] == k);
      cost += double(difference) * difference;
      gradient[image * classes + k] = 2 * difference / images;
    }
  const Tensors gradients = backward<T>(alpha_gradient, parameters, result.mean, result.var, result.saved,
                                        result.first_right, setting.epsilon, true, setting.may_split);
  for (size_t k = 0; k < gradients.size(); ++k)
    if (parameters.all[k].requires_grad()) parameters.all[k].mutable_grad() = gradients[k];
  return cost / images;
}

double backpropagate_cost(const Tensor& x, const Tensor& labels, const Tensor& table, const Tensors& parameters,
                          const Tensors& running_mean, const Tensors& running_var, double momentum,
                          const std::vector<double>& epsilon, bool may_split) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const Setting setting{x, table, {}, {}, running_mean, running_var, momentum, epsilon, may_split};
  check(setting, Parameters{parameters});
  check_labels(labels, x.size(0), parameters.back().size(1));
  const auto run =
      table.scalar_type() == at::kDouble ? &backpropagate_cost_of<double> : &backpropagate_cost_of<float>;
  return run(setting, labels, Parameters{parameters});
}
}  // namespace

TORCH_LIBRARY(qcnn_lightning, library) {
  // The scores, and mean and variance of every level. parameters: gamma of every level, then beta, then weight. Without
  // mean and var, those of the batch, through which gradients flow, and which the running averages, if given, move towards.
  library.def(
      "alpha(Tensor x, Tensor table, Tensor[] parameters, Tensor[] mean, Tensor[] var, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum, float[] epsilon, bool may_split) -> "
      "(Tensor alpha, Tensor[] mean, Tensor[] var)",
      &alpha);
  // The cost of a batch of labelled images, by its own statistics; the parameters' gradients become its gradients.
  library.def(
      "backpropagate_cost(Tensor x, Tensor labels, Tensor table, Tensor[] parameters, Tensor(a!)[] running_mean, "
      "Tensor(b!)[] running_var, float momentum, float[] epsilon, bool may_split) -> float",
      &backpropagate_cost);
}
