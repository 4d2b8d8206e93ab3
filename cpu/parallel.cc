#include "cpu/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <new>

namespace jax_na {
namespace {

constexpr std::align_val_t kLine{64};
constexpr int64_t kKeptBytes = int64_t{8}
                               << 20;  // scratch that a thread keeps between calls, at most

// A thread's scratch memory. Kept between calls, since fresh pages cost more than a small call.
class Scratch {
 public:
  Scratch() = default;
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { release(); }

  std::byte* at_least(int64_t bytes) {
    if (bytes > size_) {
      release();
      data_ = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), kLine));
      size_ = bytes;
    }
    return data_;
  }
  void trim() {
    if (size_ > kKeptBytes) release();
  }

 private:
  void release() {
    if (data_ != nullptr) ::operator delete(data_, kLine);
    data_ = nullptr;
    size_ = 0;
  }
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

struct Shared {
  int64_t tasks;
  std::atomic<int64_t> next{0};
  int64_t ended = 0;             // guarded by mutex
  std::exception_ptr exception;  // the first one of a task; guarded by mutex
  std::mutex mutex;
  std::condition_variable all_ended;
};

}  // namespace

void parallel_for(xla::ffi::ThreadPool& pool, int64_t tasks, int64_t scratch_bytes,
                  const std::function<void(int64_t, std::byte*)>& run) {
  if (tasks <= 0) return;
  // Helpers may start after the caller has returned: they own `shared`, and touch `run` only with a
  // task in hand.
  auto shared = std::make_shared<Shared>();
  shared->tasks = tasks;
  auto work = [shared, scratch_bytes, &run] {
    thread_local Scratch scratch;
    int64_t done = 0;
    for (int64_t task; (task = shared->next.fetch_add(1)) < shared->tasks; ++done) try {
        run(task, scratch.at_least(scratch_bytes));
      } catch (...) {
        std::lock_guard<std::mutex> lock(shared->mutex);
        if (!shared->exception) shared->exception = std::current_exception();
      }
    if (done == 0) return;
    scratch.trim();
    std::lock_guard<std::mutex> lock(shared->mutex);
    shared->ended += done;
    if (shared->ended == shared->tasks) shared->all_ended.notify_all();
  };
  int64_t helpers = std::min(pool.num_threads(), tasks) - 1;
  for (int64_t i = 0; i < helpers; ++i) pool.Schedule(std::function<void()>(work));
  work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->all_ended.wait(lock, [&] { return shared->ended == shared->tasks; });
  if (shared->exception) std::rethrow_exception(shared->exception);
}

}  // namespace jax_na
