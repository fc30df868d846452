// Vectors carried along the arms of a matrix product state for a batch of images (theory.md, eq. A1, A2).
//
// Images do not depend on one another: a thread carries some of them from the outer end of an arm to the inner one, or their
// gradients back. The gradient of a site is a sum over all images, in their order; so threads change no result.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <tuple>

#include "memory.h"
#include "powers.h"
#include "products.h"
#include "workers.h"

namespace qcnn {

constexpr int64_t kSitesBetweenRescaling = 8;
constexpr int64_t kImagesAtATime = 24;

template <class T>
class Chain {
 public:
  // sites: (steps, arms, local, bond, bond), rows are the outer bond, W = size sites; features: (steps + 1, arms, images, local).
  Chain(const Tensor& sites, const Tensor& features, double size)
      : steps_(sites.size(0)),
        arms_(sites.size(1)),
        local_(sites.size(2)),
        bond_(sites.size(3)),
        images_(features.size(2)),
        lanes_(products::padded_to_lanes<T>(bond_)),
        wide_(products::padded_to_lanes<T>(local_ * bond_)),
        size_(T(size)),
        sites_(sites),
        features_(features) {}

  // The vectors at the inner ends (arms, images, bond), their powers of two (arms, images); and, if keep, those at all sites
  // and the powers of two that were taken out on the way: (arms, places, images, lanes) and (arms, times, images).
  std::tuple<Tensor, Tensor, Tensor, Tensor> forward(const Tensor& ends, bool keep) const {
    const int64_t places = keep ? steps_ + 1 : 2;
    const Tensor packed = weights(false), vectors = pooled({arms_, places, images_, lanes_}, features_.options());
    const Tensor shifts = pooled_zeros({arms_, times(), images_}, features_.options().dtype(at::kInt));
    const Tensor last = at::empty({arms_, images_, bond_}, features_.options());
    const Tensor exponent = at::empty({arms_, images_}, features_.options().dtype(at::kLong));
    each_part([&](int64_t arm, int64_t begin, int64_t end) {
      const auto at = [&](int64_t place) { return data<T>(vectors) + ((arm * places + place) * images_) * lanes_; };
      std::fill(at(0) + begin * lanes_, at(0) + end * lanes_, T(0));
      for (int64_t image = begin; image < end; ++image)
        for (int64_t i = 0; i < local_; ++i) {
          const T f = features(0, arm)[image * local_ + i];
          const T* u = data<T>(ends) + (arm * local_ + i) * bond_;
          for (int64_t o = 0; o < bond_; ++o) at(0)[image * lanes_ + o] += f * u[o];
        }
      for (int64_t step = 0; step < steps_; ++step) {
        T *here = at(keep ? step : step % 2), *there = at(keep ? step + 1 : (step + 1) % 2);
        carry(here, there, features(step + 1, arm), site(packed, step, arm), begin, end);
        if (!is_rescaled(step)) continue;
        int32_t* shift = data<int32_t>(shifts) + (arm * times() + step / kSitesBetweenRescaling) * images_;
        for (int64_t image = begin; image < end; ++image) {
          T largest = 0;
          T* row = there + image * lanes_;
          for (int64_t o = 0; o < bond_; ++o) largest = std::max(largest, std::abs(row[o]));
          shift[image] = largest > 0 ? int32_t(powers::exponent_of(largest)) : 0;
          scale(row, -shift[image]);
        }
      }
      for (int64_t image = begin; image < end; ++image) {
        const T* row = at(keep ? steps_ : steps_ % 2) + image * lanes_;
        std::copy(row, row + bond_, data<T>(last) + (arm * images_ + image) * bond_);
        int64_t sum = 0;
        for (int64_t time = 0; time < times(); ++time) sum += data<int32_t>(shifts)[(arm * times() + time) * images_ + image];
        data<int64_t>(exponent)[arm * images_ + image] = sum;
      }
    });
    return {last, exponent, vectors, shifts};
  }

  // The gradients of ends and sites, from those of the vectors at the inner ends.
  std::tuple<Tensor, Tensor> backward(const Tensor& gradient, const Tensor& vectors, const Tensor& shifts) const {
    const Tensor packed = weights(true), all = pooled({arms_, steps_ + 1, images_, lanes_}, features_.options());
    const auto at = [&](const Tensor& tensor, int64_t arm, int64_t place) {
      return data<T>(tensor) + ((arm * (steps_ + 1) + place) * images_) * lanes_;
    };
    each_part([&](int64_t arm, int64_t begin, int64_t end) {
      for (int64_t image = begin; image < end; ++image) {
        T* row = at(all, arm, steps_) + image * lanes_;
        const T* given = data<T>(gradient) + (arm * images_ + image) * bond_;
        std::fill(std::copy(given, given + bond_, row), row + lanes_, T(0));
      }
      for (int64_t step = steps_ - 1; step >= 0; --step) {
        if (is_rescaled(step)) {
          const int32_t* shift = data<int32_t>(shifts) + (arm * times() + step / kSitesBetweenRescaling) * images_;
          for (int64_t image = begin; image < end; ++image) scale(at(all, arm, step + 1) + image * lanes_, -shift[image]);
        }
        carry(at(all, arm, step + 1), at(all, arm, step), features(step + 1, arm), site(packed, step, arm), begin, end);
      }
    });
    const Tensor of_ends = pooled_zeros({arms_, local_, bond_}, features_.options());
    for (int64_t arm = 0; arm < arms_; ++arm)
      for (int64_t image = 0; image < images_; ++image)
        for (int64_t i = 0; i < local_; ++i) {
          const T f = features(0, arm)[image * local_ + i];
          const T* g = at(all, arm, 0) + image * lanes_;
          T* sum = data<T>(of_ends) + (arm * local_ + i) * bond_;
          for (int64_t o = 0; o < bond_; ++o) sum[o] += f * g[o];
        }
    const Tensor of_sites = pooled({steps_, arms_, local_, bond_, bond_}, features_.options());
    workers::parallel_for(steps_ * arms_, 4, [&](int64_t begin, int64_t end) {
      static thread_local products::Scratch<T> rows_memory, sums_memory;
      T *rows = rows_memory.of(images_ * wide_), *sums = sums_memory.of(bond_ * wide_);
      for (int64_t n = begin; n < end; ++n) {
        const int64_t step = n / arms_, arm = n % arms_;
        // sum over images of v_o f_i g_p
        const T *f = features(step + 1, arm), *g = at(all, arm, step + 1);
        T* row = rows;
        for (int64_t image = 0; image < images_; ++image, f += local_, g += lanes_, row += wide_) {
          for (int64_t i = 0; i < local_; ++i)
            for (int64_t o = 0; o < bond_; ++o) row[i * bond_ + o] = size_ * f[i] * g[o];
          std::fill(row + local_ * bond_, row + wide_, T(0));
        }
        products::product<T>(at(vectors, arm, step), 1, lanes_, rows, wide_, sums, wide_, bond_, wide_, images_, false);
        T* to = data<T>(of_sites) + n * local_ * bond_ * bond_;
        for (int64_t i = 0; i < local_; ++i)
          for (int64_t o = 0; o < bond_; ++o, to += bond_)
            std::copy(sums + o * wide_ + i * bond_, sums + o * wide_ + (i + 1) * bond_, to);
      }
    });
    return {of_ends, of_sites};
  }

 private:
  int64_t times() const { return (steps_ + kSitesBetweenRescaling - 1) / kSitesBetweenRescaling; }
  bool is_rescaled(int64_t step) const { return (step + 1) % kSitesBetweenRescaling == 0 || step == steps_ - 1; }
  const T* features(int64_t place, int64_t arm) const {
    return data<T>(features_) + (place * arms_ + arm) * images_ * local_;
  }
  const T* site(const Tensor& packed, int64_t step, int64_t arm) const {
    return data<T>(packed) + (step * arms_ + arm) * bond_ * wide_;
  }

  // The sites' matrices times `size`, (outer, local * inner) each; inner and outer change places for the way back.
  Tensor weights(bool transposed) const {
    const Tensor packed = pooled({steps_ * arms_, bond_, wide_}, features_.options());
    workers::parallel_for(steps_ * arms_, 16, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n) {
        const T* from = data<T>(sites_) + n * local_ * bond_ * bond_;
        T* to = data<T>(packed) + n * bond_ * wide_;
        for (int64_t row = 0; row < bond_; ++row, to += wide_) {
          for (int64_t i = 0; i < local_; ++i)
            for (int64_t o = 0; o < bond_; ++o)
              to[i * bond_ + o] = size_ * from[(i * bond_ + (transposed ? o : row)) * bond_ + (transposed ? row : o)];
          std::fill(to + local_ * bond_, to + wide_, T(0));
        }
      }
    });
    return packed;
  }

  template <class Work>
  void each_part(const Work& work) const {
    const int64_t parts = (images_ + kImagesAtATime - 1) / kImagesAtATime;
    workers::parallel_for(arms_ * parts, 1, [&](int64_t begin, int64_t end) {
      for (int64_t n = begin; n < end; ++n)
        work(n / parts, n % parts * images_ / parts, (n % parts + 1) * images_ / parts);
    });
  }

  // there = here + sum_i f_i here W_i.
  void carry(const T* here, T* there, const T* functions, const T* weight, int64_t begin, int64_t end) const {
    static thread_local products::Scratch<T> memory;
    T* mapped = memory.of((end - begin) * wide_);
    products::product<T>(here + begin * lanes_, lanes_, 1, weight, wide_, mapped, wide_, end - begin, wide_, bond_, false);
    for (int64_t image = begin; image < end; ++image, mapped += wide_) {
      const T *from = here + image * lanes_, *f = functions + image * local_;
      T* to = there + image * lanes_;
      for (int64_t o = 0; o < bond_; ++o) to[o] = from[o] + f[0] * mapped[o];
      for (int64_t i = 1; i < local_; ++i)
        for (int64_t o = 0; o < bond_; ++o) to[o] += f[i] * mapped[i * bond_ + o];
    }
  }

  void scale(T* row, int32_t exponent) const {
    const powers::Factor<T> factor(exponent);
    for (int64_t o = 0; o < bond_; ++o) row[o] = row[o] * factor;
  }

  int64_t steps_, arms_, local_, bond_, images_, lanes_, wide_;
  T size_;
  Tensor sites_, features_;
};

}  // namespace qcnn
