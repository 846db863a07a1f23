// The compute threads of the CPU backend: short parallel loops, many thousands a second.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace engram {

// One thread drives a pool. A worker that sleeps or lost its core never holds up a loop: indices
// are claimed one by one, and the caller takes what no worker has claimed.
// Waiting threads spin for tens of microseconds at most, then sleep in the kernel.
class ComputePool {
 public:
  // `threads` >= 1 counts the caller of Run; threads - 1 are started.
  explicit ComputePool(uint32_t threads);
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;
  ~ComputePool();

  [[nodiscard]] uint32_t threads() const { return static_cast<uint32_t>(workers_.size()) + 1; }

  // Calls body(index, thread) once for every index in [0, count), thread < threads(), the caller
  // being thread 0; returns when all are done. Which thread takes which index is not fixed.
  template <typename Body>
  void Run(size_t count, Body&& body) {
    using Callable = std::remove_reference_t<Body>;
    RunErased(
        count,
        [](void* context, size_t index, uint32_t thread) {
          (*static_cast<Callable*>(context))(index, thread);
        },
        const_cast<std::remove_const_t<Callable>*>(&body));
  }

 private:
  using Call = void (*)(void* context, size_t index, uint32_t thread);

  void RunErased(size_t count, Call call, void* context);
  void WorkerMain(uint32_t thread);
  // Runs indices of loop `loop` until none is left unclaimed.
  void TakeIndices(uint32_t loop, uint32_t thread);

  // INVARIANT: the three fields of a loop are written by the caller while no claimed index is
  // unfinished, and read by a worker only between its claim and its count in done_.
  Call call_ = nullptr;
  void* context_ = nullptr;
  uint32_t count_ = 0;

  alignas(64) std::atomic<uint64_t> unclaimed_{0};  // loop number << 32 | indices left to claim
  alignas(64) std::atomic<uint32_t> done_{0};       // indices finished in this loop
  alignas(64) std::atomic<uint32_t> loop_{0};  // number of the current loop; what workers wait on
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

}  // namespace engram
