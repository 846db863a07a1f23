// The threads of one CUDA block as fibers of the calling thread.
#pragma once

#include <cstring>
#include <functional>
#include <type_traits>

namespace engram::cuda_on_host {

// Runs `kernel` once for each thread of a block, all at once as far as barriers need it: a thread
// runs until it waits, in an order that nobody may count on.
//   on_switch  called with a thread's number before it runs (again)
// A barrier that some threads of the block (or warp) never reach while others wait ends the process
// with a message: on a GPU it would hang, or worse. Not thread-safe.
void RunBlock(unsigned threads, const std::function<void()>& kernel,
              const std::function<void(unsigned)>& on_switch);

// -- inside a kernel

// __syncthreads: until every thread of the block that has not ended is here.
void AwaitBlock();
// The thread's number in its warp of 32.
[[nodiscard]] unsigned Lane();
// What the warp's threads put down for each other.
[[nodiscard]] void* ExchangePlace(unsigned lane);
// Until every thread of the warp that has not ended is here. Precondition: `mask` names all.
void AwaitWarp(unsigned mask);

template <typename T>
T Exchange(unsigned mask, T value, unsigned from_lane) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 16);
  std::memcpy(ExchangePlace(Lane()), &value, sizeof(T));
  AwaitWarp(mask);
  T taken;
  std::memcpy(&taken, ExchangePlace(from_lane), sizeof(T));
  AwaitWarp(mask);  // before the next value is put down
  return taken;
}

}  // namespace engram::cuda_on_host
