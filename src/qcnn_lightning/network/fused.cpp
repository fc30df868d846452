// A whole q-CNN as two operators, forward and backward: the same mathematics as qcnn.py (eq. 2-10), in fewer operations.
//
// 1. Equal blocks of pixels have equal features wherever they stand, since weights do not depend on the position. So a
//    level holds one *row* for each distinct block of the batch and how often it occurs; level 0 holds the 256 grey
//    levels. A block is known by the rows of its two children.
// 2. Channel 0 is the constant channel (eq. 12): batch norm and convolution are one matrix, the site tensor (eq. 15, 16).
//    Rows are padded with zeros to whole vectors.
// 3. The gradient through the batch's statistics is, for every feature, count * (offset + slope * feature), with offset
//    and slope from small matrices.
//
// Every number is summed in an order that neither threads nor earlier calls change, so results repeat bit by bit.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <vector>

namespace {

using at::Tensor;
using Tensors = std::vector<Tensor>;

constexpr int64_t kVectorBytes = 32;  // AVX2; compilers split it where registers are narrower
constexpr int64_t kBlockRows = 64;    // rows worked on at a time, so that they stay in the first-level cache
constexpr int64_t kPartImages = 500;  // images evaluated at a time: more share more blocks, fewer stay in the cache

template <class T>
using Vector __attribute__((vector_size(kVectorBytes), may_alias)) = T;

template <class T>
constexpr int64_t kWidth = kVectorBytes / sizeof(T);

template <class T>
int64_t padded(int64_t channels) {  // the constant channel, then the others, then zeros
  return (1 + channels + kWidth<T> - 1) / kWidth<T> * kWidth<T>;
}

template <class T>
T* data(const Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

// Large tensors, whose memory is used again. A fresh allocation of this size is memory that the system has to clear page by
// page, at every step anew.
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
  static constexpr size_t kSmallestBytes = 1 << 15;
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

// Let these lanes stay in a register. Left to itself, GCC reads a row of b from memory again for every row of a, and the
// loads, not the products, set the pace: two thirds of the speed.
template <class Lanes>
void keep_in_register([[maybe_unused]] Lanes& lanes) {
#ifdef __AVX__
  asm("" : "+x"(lanes));
#endif
}

// c (+)= a b for R rows and V vectors of columns; element (i, k) of a is a[i * a_row + k * a_column].
template <class T, int R, int V>
void tile(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t depth,
          bool accumulate) {
  using Lanes = Vector<T>;
  Lanes sum[R][V];
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) sum[i][v] = accumulate ? reinterpret_cast<Lanes*>(c + i * c_row)[v] : Lanes{};
  for (int64_t k = 0; k < depth; ++k) {
    Lanes row[V];
    for (int v = 0; v < V; ++v) {
      row[v] = reinterpret_cast<const Lanes*>(b + k * b_row)[v];
      keep_in_register(row[v]);
    }
    for (int i = 0; i < R; ++i)
      for (int v = 0; v < V; ++v) sum[i][v] += a[i * a_row + k * a_column] * row[v];
  }
  for (int i = 0; i < R; ++i)
    for (int v = 0; v < V; ++v) reinterpret_cast<Lanes*>(c + i * c_row)[v] = sum[i][v];
}

template <class T, int V>
void panel(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
           int64_t depth, bool accumulate) {
  int64_t i = 0;
  for (; i + 4 <= rows; i += 4)
    tile<T, 4, V>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, depth, accumulate);
  for (; i + 2 <= rows; i += 2)
    tile<T, 2, V>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, depth, accumulate);
  if (i < rows) tile<T, 1, V>(a + i * a_row, a_row, a_column, b, b_row, c + i * c_row, c_row, depth, accumulate);
}

// c (+)= a b, with b and c padded to whole vectors: panels of three vectors (twelve sums fill the registers), or two.
template <class T>
void product(const T* a, int64_t a_row, int64_t a_column, const T* b, int64_t b_row, T* c, int64_t c_row, int64_t rows,
             int64_t columns, int64_t depth, bool accumulate) {
  for (int64_t left = columns / kWidth<T>; left > 0;) {
    const int64_t vectors = left == 1 ? 1 : left == 2 || left == 4 ? 2 : 3;
    const auto multiply = vectors == 1 ? panel<T, 1> : vectors == 2 ? panel<T, 2> : panel<T, 3>;
    multiply(a, a_row, a_column, b, b_row, c, c_row, rows, depth, accumulate);
    left -= vectors, b += vectors * kWidth<T>, c += vectors * kWidth<T>;
  }
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
Blocks find_blocks(Tensor& ids, int64_t images, int64_t sites, int64_t matrices, const Tensor& like) {
  const int64_t occurrences = images * sites;
  Blocks blocks{0, 0, occurrences, pooled({occurrences}, at::kInt), pooled({occurrences}, at::kInt),
                pooled_zeros({occurrences}, like.options())};
  int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  T* count = data<T>(blocks.count);
  int bits = 4;
  while ((int64_t{1} << bits) < 2 * occurrences / matrices) ++bits;
  const Tensor found = pooled({occurrences}, at::kInt), table = pooled({int64_t{1} << bits}, at::kInt);
  const int32_t* children = data<int32_t>(ids);
  int32_t *own = data<int32_t>(found), *slots = data<int32_t>(table);
  const uint64_t last_slot = table.numel() - 1;
  int32_t rows = 0;
  for (int64_t side = 0; side < matrices; ++side) {
    blocks.first_right = rows;
    std::fill_n(slots, table.numel(), -1);
    for (int64_t site = side; site < occurrences; site += matrices) {
      // With one matrix for both children, (a, b) and (b, a) have the same features; with two, a < b always.
      const auto [first, second] = std::minmax(children[2 * site], children[2 * site + 1]);
      const uint64_t key = (uint64_t(first) << 32 | uint64_t(second)) * 0x9E3779B97F4A7C15u;
      uint64_t slot = (key ^ key >> 32) * 0x9E3779B97F4A7C15u >> (64 - bits);
      while (slots[slot] >= 0 && (left[slots[slot]] != first || right[slots[slot]] != second))
        slot = (slot + 1) & last_slot;
      if (slots[slot] < 0) {
        left[rows] = first, right[rows] = second;
        slots[slot] = rows++;
      }
      own[site] = slots[slot];
      count[slots[slot]] += 1;
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
  Blocks blocks{256 * matrices, 256, x.numel(), {}, {}, at::zeros({256 * matrices}, like.options())};
  T* count = data<T>(blocks.count);
  ids = pooled({x.numel()}, at::kInt);
  int32_t* own = data<int32_t>(ids);
  for (int64_t pixel = 0; pixel < x.numel(); ++pixel) {
    own[pixel] = pixels[pixel] + (matrices == 2 && pixel % 2 ? 256 : 0);
    count[own[pixel]] += 1;
  }
  return blocks;
}

// The features entering a level: products of children's mapped features (eq. 8), or the basis functions of grey levels.
template <class T>
Tensor pool(const Blocks& blocks, const Tensor& mapped, const Tensor& table) {
  const bool leaf = !blocks.left.defined();
  const int64_t width = leaf ? padded<T>(table.size(1)) : mapped.size(1);
  Tensor features = pooled({blocks.rows, width}, table.options());
  T* output = data<T>(features);
  if (leaf) {
    const T* values = data<T>(table);
    const int64_t channels = table.size(1);
    for (int64_t row = 0; row < blocks.rows; ++row, output += width) {
      std::fill_n(output, width, T(0));
      output[0] = 1;
      std::copy_n(values + row % 256 * channels, channels, output + 1);
    }
    return features;
  }
  const T* input = data<T>(mapped);
  const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  at::parallel_for(0, blocks.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T *a = input + left[row] * width, *b = input + right[row] * width;
      for (int64_t k = 0; k < width; ++k) output[row * width + k] = a[k] * b[k];
    }
  });
  return features;
}

// Mean and biased variance of every channel over all occurrences (eq. 4), about the first row, lest squares cancel.
template <class T>
void measure(const Blocks& blocks, const Tensor& features, const Tensor& mean, const Tensor& var) {
  const int64_t width = features.size(1), parts = (blocks.rows + kBlockRows - 1) / kBlockRows;
  Tensor partial = at::zeros({parts, 2, width}, features.options());
  const T *values = data<T>(features), *count = data<T>(blocks.count);
  at::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      T* sum = data<T>(partial) + part * 2 * width;
      T* squares = sum + width;
      for (int64_t row = part * kBlockRows; row < std::min((part + 1) * kBlockRows, blocks.rows); ++row) {
        const T* feature = values + row * width;
        for (int64_t k = 0; k < width; ++k) {
          const T difference = feature[k] - values[k], weighted = count[row] * difference;
          sum[k] += weighted;
          squares[k] += weighted * difference;
        }
      }
    }
  });
  const T* sums = data<T>(partial);
  for (int64_t k = 0; k < mean.numel(); ++k) {
    double sum = 0, squares = 0;
    for (int64_t part = 0; part < parts; ++part) {
      sum += sums[part * 2 * width + 1 + k];
      squares += sums[(part * 2 + 1) * width + 1 + k];
    }
    const double shift = sum / blocks.occurrences;
    data<T>(mean)[k] = values[1 + k] + shift;
    data<T>(var)[k] = std::max(squares / blocks.occurrences - shift * shift, 0.0);
  }
}

// running += momentum (factor value - running), as PyTorch's batch norm keeps its averages.
template <class T>
void move_towards(const Tensor& running, const Tensor& value, T factor, T momentum) {
  T* average = data<T>(running);
  for (int64_t k = 0; k < running.numel(); ++k) average[k] += momentum * (factor * data<T>(value)[k] - average[k]);
}

// What batch norm with given statistics is: x -> scale x + shift (eq. 4).
template <class T>
struct Affine {
  std::vector<T> deviation, scale, shift;  // deviation: 1 / sqrt(var + epsilon)
  Affine(const Tensor& gamma, const Tensor& beta, const Tensor& mean, const Tensor& var, double epsilon)
      : deviation(gamma.numel()), scale(gamma.numel()), shift(gamma.numel()) {
    for (int64_t k = 0; k < gamma.numel(); ++k) {
      deviation[k] = 1 / std::sqrt(data<T>(var)[k] + T(epsilon));
      scale[k] = data<T>(gamma)[k] * deviation[k];
      shift[k] = data<T>(beta)[k] - data<T>(mean)[k] * scale[k];
    }
  }
};

// Apply the site tensor [[1, 0], [a shift, a diag(scale)]] (eq. 15) to every row.
template <class T>
Tensor map(const Blocks& blocks, const Tensor& features, const Tensor& weight, const Affine<T>& norm) {
  const int64_t matrices = weight.size(0), outputs = weight.size(1), inputs = weight.size(2);
  const int64_t width = features.size(1), mapped_width = padded<T>(outputs);
  Tensor transposed = at::zeros({matrices, 1 + inputs, mapped_width}, weight.options());
  at::parallel_for(0, matrices * outputs, 16, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* a = data<T>(weight) + row * inputs;
      T* column = data<T>(transposed) + row / outputs * (1 + inputs) * mapped_width + 1 + row % outputs;
      T constant = 0;
      for (int64_t k = 0; k < inputs; ++k) {
        column[(1 + k) * mapped_width] = a[k] * norm.scale[k];
        constant += a[k] * norm.shift[k];
      }
      column[0] = constant;
    }
  });
  for (int64_t side = 0; side < matrices; ++side) data<T>(transposed)[side * (1 + inputs) * mapped_width] = 1;
  Tensor mapped = pooled({blocks.rows, mapped_width}, features.options());
  at::parallel_for(0, blocks.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t side = 0; side < matrices; ++side) {
      const T* site_tensor = data<T>(transposed) + side * (1 + inputs) * mapped_width;
      const int64_t last = std::min(end, matrices == 2 && side == 0 ? blocks.first_right : blocks.rows);
      for (int64_t row = std::max(begin, side ? blocks.first_right : 0); row < last; row += kBlockRows)
        product(data<T>(features) + row * width, width, 1, site_tensor, mapped_width,
                data<T>(mapped) + row * mapped_width, mapped_width, std::min(kBlockRows, last - row), mapped_width,
                1 + inputs, false);
    }
  });
  return mapped;
}

// The gradient of a level's matrices, (matrices, outputs, padded(inputs)), channel 0 being that of a shift.
template <class T>
Tensor site_tensor_gradient(const Blocks& blocks, const Tensor& features, const Tensor& mapped_gradient,
                            const Tensor& weight) {
  const int64_t matrices = weight.size(0), outputs = weight.size(1), width = features.size(1);
  const int64_t mapped_width = mapped_gradient.size(1), tiles = (outputs + 3) / 4;
  Tensor gradient = at::zeros({matrices, outputs, width}, weight.options());
  at::parallel_for(0, matrices * tiles, 1, [&](int64_t begin, int64_t end) {
    for (int64_t side = begin / tiles; side * tiles < end; ++side) {
      const int64_t output = 4 * std::max(begin - side * tiles, int64_t{0});
      const int64_t last_output = std::min(4 * (end - side * tiles), outputs);
      const int64_t last = matrices == 2 && side == 0 ? blocks.first_right : blocks.rows;
      for (int64_t row = side ? blocks.first_right : 0; row < last; row += kBlockRows)
        product(data<T>(mapped_gradient) + row * mapped_width + 1 + output, 1, mapped_width,
                data<T>(features) + row * width, width, data<T>(gradient) + (side * outputs + output) * width, width,
                last_output - output, width, std::min(kBlockRows, last - row), true);
    }
  });
  return gradient;
}

// The gradient of the features: through the site tensor, and through the statistics, count * (offset + slope * feature).
template <class T>
Tensor features_gradient(const Blocks& blocks, const Tensor& features, const Tensor& mapped_gradient,
                         const Tensor& weight, const Affine<T>& norm, const std::vector<T>& offset,
                         const std::vector<T>& slope) {
  const int64_t matrices = weight.size(0), outputs = weight.size(1), inputs = weight.size(2);
  const int64_t width = features.size(1), mapped_width = mapped_gradient.size(1);
  Tensor scaled = at::zeros({matrices, outputs, width}, weight.options());
  at::parallel_for(0, matrices * outputs, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const T* a = data<T>(weight) + row * inputs;
      T* output = data<T>(scaled) + row * width + 1;
      for (int64_t k = 0; k < inputs; ++k) output[k] = a[k] * norm.scale[k];
    }
  });
  Tensor gradient = pooled(features.sizes(), features.options());
  const T *feature = data<T>(features), *count = data<T>(blocks.count);
  T* output = data<T>(gradient);
  at::parallel_for(0, blocks.rows, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t side = 0; side < matrices; ++side) {
      const int64_t last = std::min(end, matrices == 2 && side == 0 ? blocks.first_right : blocks.rows);
      for (int64_t row = std::max(begin, side ? blocks.first_right : 0); row < last; row += kBlockRows) {
        const int64_t rows = std::min(kBlockRows, last - row);
        for (int64_t i = row; i < row + rows; ++i)
          for (int64_t k = 0; k < width; ++k)
            output[i * width + k] = count[i] * (offset[k] + slope[k] * feature[i * width + k]);
        product(data<T>(mapped_gradient) + row * mapped_width + 1, mapped_width, 1,
                data<T>(scaled) + side * outputs * width, width, output + row * width, width, rows, width, outputs,
                true);
      }
    }
  });
  return gradient;
}

// Back through pooling: a child's gradient is the sum, over the blocks it is part of, of theirs times its sibling.
template <class T>
Tensor mapped_gradient_below(const Blocks& blocks, const Tensor& gradient, const Tensor& mapped) {
  const int64_t children = mapped.size(0), width = mapped.size(1), edges = 2 * blocks.rows;
  const int32_t *left = data<int32_t>(blocks.left), *right = data<int32_t>(blocks.right);
  std::vector<int32_t> first(children + 1);
  const Tensor parents = pooled({edges}, at::kInt), siblings = pooled({edges}, at::kInt);
  int32_t *parent = data<int32_t>(parents), *sibling = data<int32_t>(siblings);
  for (int64_t row = 0; row < blocks.rows; ++row) ++first[left[row]], ++first[right[row]];
  for (int64_t child = 0, sum = 0; child <= children; ++child) first[child] = sum += first[child];
  for (int64_t row = blocks.rows - 1; row >= 0; --row) {
    const int32_t a = --first[left[row]], b = --first[right[row]];
    parent[a] = parent[b] = row, sibling[a] = right[row], sibling[b] = left[row];
  }
  Tensor mapped_gradient = pooled(mapped.sizes(), mapped.options());
  const T *above = data<T>(gradient), *value = data<T>(mapped);
  T* output = data<T>(mapped_gradient);
  // Threads share the edges evenly: at level 0, black is part of more blocks than all other grey levels.
  const auto child_at = [&](int64_t edge) {
    return edge == edges ? children : std::lower_bound(first.begin(), first.end(), edge) - first.begin();
  };
  at::parallel_for(0, edges, kBlockRows, [&](int64_t begin, int64_t end) {
    for (int64_t child = child_at(begin); child < child_at(end); ++child) {
      T* sum = output + child * width;
      std::fill_n(sum, width, T(0));
      for (int32_t edge = first[child]; edge < first[child + 1]; ++edge) {
        const T *a = above + parent[edge] * width, *b = value + sibling[edge] * width;
        for (int64_t k = 0; k < width; ++k) sum[k] += a[k] * b[k];
      }
    }
  });
  return mapped_gradient;
}

struct Forward {
  Tensor alpha;
  Tensors mean, var, saved;
  std::vector<int64_t> first_right;
};

template <class T>
Forward forward(const Tensor& x, const Tensor& table, const Tensors& gamma, const Tensors& beta, const Tensors& weight,
                const Tensors& mean, const Tensors& var, const Tensors& running_mean, const Tensors& running_var,
                double momentum, const std::vector<double>& epsilon, bool keep) {
  Forward result{{}, mean, var, {}, {}};
  const bool training = mean.empty();
  Tensor ids, mapped;
  for (size_t level = 0; level < weight.size(); ++level) {
    const int64_t matrices = weight[level].size(0);
    const Blocks blocks = level == 0
                              ? find_grey_levels<T>(ids, x, matrices, table)
                              : find_blocks<T>(ids, x.size(0), x.size(1) >> level, matrices, table);
    const Tensor features = pool<T>(blocks, mapped, table);
    if (training) {
      result.mean.push_back(at::empty_like(gamma[level]));
      result.var.push_back(at::empty_like(gamma[level]));
      measure<T>(blocks, features, result.mean[level], result.var[level]);
    }
    if (!running_mean.empty()) {
      const T unbiased = T(blocks.occurrences) / std::max<int64_t>(blocks.occurrences - 1, 1);
      move_towards<T>(running_mean[level], result.mean[level], 1, momentum);
      move_towards<T>(running_var[level], result.var[level], unbiased, momentum);
    }
    mapped = map(blocks, features, weight[level],
                 Affine<T>(gamma[level], beta[level], result.mean[level], result.var[level], epsilon[level]));
    if (keep) {
      for (const Tensor& tensor : {blocks.left, blocks.right, blocks.count, features, mapped})
        result.saved.push_back(tensor.defined() ? tensor : at::empty({0}, at::kInt));
      result.first_right.push_back(blocks.first_right);
    }
  }
  const int64_t classes = weight.back().size(1);
  result.alpha = at::empty({x.size(0), classes}, table.options());
  for (int64_t image = 0; image < x.size(0); ++image)
    std::copy_n(data<T>(mapped) + data<int32_t>(ids)[image] * mapped.size(1) + 1, classes,
                data<T>(result.alpha) + image * classes);
  if (keep) result.saved.push_back(ids);
  return result;
}

// The scores by fixed statistics. They do not depend on what else is in the batch, so threads share out the images.
template <class T>
Tensor evaluate(const Tensor& x, const Tensor& table, const Tensors& gamma, const Tensors& beta, const Tensors& weight,
                const Tensors& mean, const Tensors& var, const std::vector<double>& epsilon) {
  const int64_t images = x.size(0), sites = x.size(1), classes = weight.back().size(1);
  Tensor alpha = at::empty({images, classes}, table.options());
  at::parallel_for(0, (images + kPartImages - 1) / kPartImages, 1, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * kPartImages; first < std::min(end * kPartImages, images); first += kPartImages) {
      const Tensor part =
          at::from_blob(data<uint8_t>(x) + first * sites, {std::min(kPartImages, images - first), sites}, at::kByte);
      const Forward result = forward<T>(part, table, gamma, beta, weight, mean, var, {}, {}, 0, epsilon, false);
      std::copy_n(data<T>(result.alpha), result.alpha.numel(), data<T>(alpha) + first * classes);
    }
  });
  return alpha;
}

template <class T>
std::tuple<Tensors, Tensors, Tensors> backward(const Tensor& alpha_gradient, const Tensors& saved,
                                               const std::vector<int64_t>& first_right, const Tensors& gamma,
                                               const Tensors& beta, const Tensors& weight, const Tensors& mean,
                                               const Tensors& var, const std::vector<double>& epsilon,
                                               bool of_batch) {
  const int64_t levels = weight.size(), images = alpha_gradient.size(0), classes = alpha_gradient.size(1);
  Tensors gamma_gradient(levels), beta_gradient(levels), weight_gradient(levels);
  Tensor mapped_gradient = at::zeros_like(saved[5 * levels - 1]);
  const int32_t* ids = data<int32_t>(saved.back());
  for (int64_t image = 0; image < images; ++image)
    for (int64_t k = 0; k < classes; ++k)
      data<T>(mapped_gradient)[ids[image] * mapped_gradient.size(1) + 1 + k] +=
          data<T>(alpha_gradient)[image * classes + k];

  for (int64_t level = levels - 1; level >= 0; --level) {
    const Tensor* kept = &saved[5 * level];
    const Tensor& features = kept[3];
    const int64_t width = features.size(1), matrices = weight[level].size(0);
    const int64_t outputs = weight[level].size(1), inputs = weight[level].size(2);
    const Blocks blocks{features.size(0), first_right[level], images << (levels - 1 - level), kept[0], kept[1], kept[2]};
    const Affine<T> norm(gamma[level], beta[level], mean[level], var[level], epsilon[level]);

    const Tensor site_gradient = site_tensor_gradient<T>(blocks, features, mapped_gradient, weight[level]);
    weight_gradient[level] = at::empty_like(weight[level]);
    std::vector<T> scale_gradient(inputs), shift_gradient(inputs), offset(width), slope(width);
    for (int64_t row = 0; row < matrices * outputs; ++row) {
      const T* a = data<T>(weight[level]) + row * inputs;
      const T* site = data<T>(site_gradient) + row * width;
      T* a_gradient = data<T>(weight_gradient[level]) + row * inputs;
      for (int64_t k = 0; k < inputs; ++k) a_gradient[k] = site[1 + k] * norm.scale[k] + site[0] * norm.shift[k];
      for (int64_t k = 0; k < inputs; ++k) scale_gradient[k] += site[1 + k] * a[k];
      for (int64_t k = 0; k < inputs; ++k) shift_gradient[k] += site[0] * a[k];
    }
    gamma_gradient[level] = at::empty_like(gamma[level]);
    beta_gradient[level] = at::empty_like(beta[level]);
    for (int64_t k = 0; k < inputs; ++k) {
      const T average = data<T>(mean[level])[k];
      const T total = scale_gradient[k] - average * shift_gradient[k];  // shift = beta - mean * scale
      data<T>(beta_gradient[level])[k] = shift_gradient[k];
      data<T>(gamma_gradient[level])[k] = total * norm.deviation[k];
      if (!of_batch) continue;
      const T var_gradient = -total * norm.scale[k] * norm.deviation[k] * norm.deviation[k] / 2;
      slope[1 + k] = 2 * var_gradient / blocks.occurrences;
      offset[1 + k] = -norm.scale[k] * shift_gradient[k] / blocks.occurrences - slope[1 + k] * average;
    }
    if (level > 0) {
      const Tensor gradient =
          features_gradient(blocks, features, mapped_gradient, weight[level], norm, offset, slope);
      mapped_gradient = mapped_gradient_below<T>(blocks, gradient, saved[5 * level - 1]);
    }
  }
  return {gamma_gradient, beta_gradient, weight_gradient};
}

std::tuple<Tensor, Tensors, Tensors, Tensors, std::vector<int64_t>> forward_any(
    const Tensor& x, const Tensor& table, const Tensors& gamma, const Tensors& beta, const Tensors& weight,
    const Tensors& mean, const Tensors& var, const Tensors& running_mean, const Tensors& running_var, double momentum,
    const std::vector<double>& epsilon, bool keep) {
  if (!mean.empty() && !keep) {
    const auto run = table.scalar_type() == at::kDouble ? evaluate<double> : evaluate<float>;
    return {run(x, table, gamma, beta, weight, mean, var, epsilon), mean, var, {}, {}};
  }
  const auto run = table.scalar_type() == at::kDouble ? forward<double> : forward<float>;
  Forward result =
      run(x, table, gamma, beta, weight, mean, var, running_mean, running_var, momentum, epsilon, keep);
  return {result.alpha, result.mean, result.var, result.saved, result.first_right};
}

std::tuple<Tensors, Tensors, Tensors> backward_any(const Tensor& alpha_gradient, const Tensors& saved,
                                                   const std::vector<int64_t>& first_right, const Tensors& gamma,
                                                   const Tensors& beta, const Tensors& weight, const Tensors& mean,
                                                   const Tensors& var, const std::vector<double>& epsilon,
                                                   bool of_batch) {
  const auto run = alpha_gradient.scalar_type() == at::kDouble ? backward<double> : backward<float>;
  return run(alpha_gradient, saved, first_right, gamma, beta, weight, mean, var, epsilon, of_batch);
}
}  // namespace

TORCH_LIBRARY(qcnn_lightning, library) {
  // Without mean and var: those of the batch, which are returned, and which the running averages, where given, move
  // towards. keep: save what backward needs. of_batch: whether mean and var were the batch's, and so have gradients.
  library.def(
      "forward(Tensor x, Tensor table, Tensor[] gamma, Tensor[] beta, Tensor[] weight, Tensor[] mean, Tensor[] var, "
      "Tensor(a!)[] running_mean, Tensor(b!)[] running_var, float momentum, float[] epsilon, bool keep) -> (Tensor alpha, Tensor[] mean, Tensor[] var, Tensor[] saved, int[] first_right)",
      &forward_any);
  library.def(
      "backward(Tensor alpha_gradient, Tensor[] saved, int[] first_right, Tensor[] gamma, Tensor[] beta, "
      "Tensor[] weight, Tensor[] mean, Tensor[] var, float[] epsilon, bool of_batch) -> (Tensor[], Tensor[], Tensor[])",
      &backward_any);
}
