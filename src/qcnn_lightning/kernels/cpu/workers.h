// The operators' own threads, which share work without waiting for one another.
//
// Every thread has its own pieces, the same ones for the same work, so they are still in its cache; when it has done them it
// takes others'. The caller is one of the threads and does everything itself if other processes keep the workers from running.
// OpenMP gives every thread its part in advance and waits for all, which on a busy machine takes as long as other processes
// run. After its last piece a worker spins for a moment, since work usually comes within microseconds, then sleeps.
#pragma once

#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cfenv>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>

namespace workers {

constexpr auto kSpinning = std::chrono::microseconds(2000);
constexpr int64_t kMostThreads = 64;
constexpr int64_t kPiecesPerThread = 4;  // more pieces balance delayed threads, fewer cost less

// A thread's rounding mode, and whether it treats subnormal numbers as zero.
#if defined(__SSE__)
using FloatMode = unsigned;
inline FloatMode float_mode() { return __builtin_ia32_stmxcsr(); }
inline void set_float_mode(FloatMode mode) { __builtin_ia32_ldmxcsr(mode); }
#else
using FloatMode = std::fenv_t;
inline FloatMode float_mode() {
  FloatMode mode;
  std::fegetenv(&mode);
  return mode;
}
inline void set_float_mode(const FloatMode& mode) { std::fesetenv(&mode); }
#endif

// Number of threads that share the work; 0 for PyTorch's number.
inline std::atomic<int64_t> given_threads{0};

inline int64_t num_threads() { return given_threads > 0 ? given_threads.load() : at::get_num_threads(); }

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Workers {
 public:
  static Workers& all() {
    static Workers* const workers = new Workers;  // never destroyed: its threads run until the process ends
    return *workers;
  }

  // Calls work(piece) once for every piece 0 .. count - 1, here and in up to threads - 1 workers; rethrows the first error.
  // Does nothing and returns false if the workers are not available: inside a piece of work, while another caller has them,
  // or in a forked process.
  template <class Work>
  bool share(int64_t count, int64_t threads, const Work& work) {
    if (working_ || getpid() != process_ || !caller_.try_lock()) return false;
    const std::lock_guard<std::mutex> lock(caller_, std::adopt_lock);
    for (; started_ < std::min<int64_t>(threads, kMostThreads); ++started_) std::thread(&Workers::serve, this, started_).detach();
    work_ = [](const void* given, int64_t piece) { (*static_cast<const Work*>(given))(piece); };
    given_ = &work;
    threads_ = std::min<int64_t>(threads, kMostThreads), error_ = nullptr;
    for (int64_t thread = 0; thread < threads_; ++thread) {
      parts_[thread].next = count * thread / threads_;
      parts_[thread].end = count * (thread + 1) / threads_;
    }
    float_mode_ = float_mode();
    open_ = true;
    ++posted_;
    if (sleeping_ > 0) {
      const std::lock_guard<std::mutex> wake(sleepers_);
      awake_.notify_all();
    }
    do_pieces(0);
    open_ = false;
    for (int spins = 0; inside_ > 0; ++spins) spins < 1000 ? pause() : std::this_thread::yield();
    if (error_) std::rethrow_exception(error_);
    return true;
  }

 private:
  void do_pieces(int64_t own) {
    working_ = true;
    try {
      for (int64_t thread = 0; thread < threads_; ++thread) {
        Part& part = parts_[(own + thread) % threads_];
        for (int64_t piece; (piece = part.next++) < part.end;) work_(given_, piece);
      }
    } catch (...) {
      const std::lock_guard<std::mutex> lock(errors_);
      if (!error_) error_ = std::current_exception();
    }
    working_ = false;
  }

  void serve(int64_t number) {
    for (uint64_t seen = 0;;) {
      wait_for_work(seen);
      seen = posted_;
      // The caller neither changes anything nor returns while a worker is inside.
      ++inside_;
      if (open_ && number < threads_) {
        set_float_mode(float_mode_);  // the caller's
        do_pieces(number);
      }
      --inside_;
    }
  }

  void wait_for_work(uint64_t seen) {
    const auto end = std::chrono::steady_clock::now() + kSpinning;
    while (posted_ == seen) {
      for (int spins = 0; spins < 50 && posted_ == seen; ++spins) pause();
      if (std::chrono::steady_clock::now() < end) continue;
      std::unique_lock<std::mutex> lock(sleepers_);
      ++sleeping_;
      awake_.wait(lock, [&] { return posted_ != seen; });
      --sleeping_;
    }
  }

  static inline thread_local bool working_ = false;
  const pid_t process_ = getpid();
  std::mutex caller_, sleepers_, errors_;
  std::condition_variable awake_;
  struct alignas(64) Part {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };
  Part parts_[kMostThreads];
  // On separate cache lines: what waiting workers read, and what they write.
  alignas(64) std::atomic<uint64_t> posted_{0};
  alignas(64) std::atomic<bool> open_{false};
  alignas(64) std::atomic<int64_t> inside_{0};
  alignas(64) std::atomic<int64_t> sleeping_{0};
  int64_t started_ = 1, threads_ = 0;  // the caller is thread 0
  void (*work_)(const void*, int64_t) = nullptr;
  const void* given_ = nullptr;
  std::exception_ptr error_;
  FloatMode float_mode_{};
};

// Calls work(begin, end) for parts of 0 .. size - 1 of at least `grain` numbers.
template <class Work>
void parallel_for(int64_t size, int64_t grain, const Work& work) {
  const int64_t threads = num_threads();
  const int64_t pieces = std::min((size + grain - 1) / grain, threads * kPiecesPerThread);
  const auto border = [&](int64_t piece) { return size * piece / pieces; };
  const auto part = [&](int64_t piece) { work(border(piece), border(piece + 1)); };
  if (size > 0 && (threads == 1 || pieces == 1 || !Workers::all().share(pieces, threads, part))) work(0, size);
}

}  // namespace workers
