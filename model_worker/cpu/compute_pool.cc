#include "model_worker/cpu/compute_pool.h"

#include <limits>

#include "engram/base/check.h"
#include "engram/base/thread_role.h"

namespace engram {
namespace {

// About 20 us on current x86: longer than the serial parts between two loops of a step, far shorter
// than a wait for rows.
constexpr int kSpinPauses = 1000;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until `atomic` is no longer `old`: a bounded spin, then asleep.
void WaitWhile(const std::atomic<uint32_t>& atomic, uint32_t old) {
  for (int i = 0; i < kSpinPauses; ++i) {
    if (atomic.load(std::memory_order_acquire) != old) return;
    Pause();
  }
  atomic.wait(old, std::memory_order_acquire);
}

}  // namespace

ComputePool::ComputePool(uint32_t threads) {
  ENGRAM_CHECK(threads >= 1);
  for (uint32_t t = 1; t < threads; ++t) workers_.emplace_back([this, t] { WorkerMain(t); });
}

ComputePool::~ComputePool() {
  stop_.store(true, std::memory_order_release);
  loop_.fetch_add(1, std::memory_order_release);
  loop_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ComputePool::RunErased(size_t count, Call call, void* context) {
  ENGRAM_CHECK(count <= std::numeric_limits<uint32_t>::max());
  if (count <= 1 || workers_.empty()) {
    for (size_t i = 0; i < count; ++i) call(context, i, 0);
    return;
  }
  call_ = call;
  context_ = context;
  count_ = static_cast<uint32_t>(count);
  done_.store(0, std::memory_order_relaxed);
  const uint32_t loop = loop_.load(std::memory_order_relaxed) + 1;
  unclaimed_.store(uint64_t{loop} << 32 | count_, std::memory_order_release);
  loop_.store(loop, std::memory_order_release);
  loop_.notify_all();
  TakeIndices(loop, 0);
  for (uint32_t done = done_.load(std::memory_order_acquire); done != count_;
       done = done_.load(std::memory_order_acquire)) {
    WaitWhile(done_, done);
  }
}

void ComputePool::TakeIndices(uint32_t loop, uint32_t thread) {
  uint64_t seen = unclaimed_.load(std::memory_order_acquire);
  while (seen >> 32 == loop && static_cast<uint32_t>(seen) != 0) {
    if (!unclaimed_.compare_exchange_weak(seen, seen - 1, std::memory_order_acq_rel,
                                          std::memory_order_acquire)) {
      continue;
    }
    const uint32_t count = count_;
    call_(context_, count - static_cast<uint32_t>(seen), thread);
    // The caller sleeps on done_ only near the end of a loop; waking is free when nobody sleeps.
    done_.fetch_add(1, std::memory_order_acq_rel);
    done_.notify_one();
    seen = unclaimed_.load(std::memory_order_acquire);
  }
}

void ComputePool::WorkerMain(uint32_t thread) {
  BecomeComputeThread();
  uint32_t seen = 0;
  while (true) {
    WaitWhile(loop_, seen);
    seen = loop_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_acquire)) return;
    TakeIndices(seen, thread);
  }
}

}  // namespace engram
