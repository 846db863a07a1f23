// The threads of one CUDA block as fibers of the calling thread.
#pragma once

#include <cstddef>
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
// Where the warp's threads put down what they share, kShareBytes each.
inline constexpr size_t kShareBytes = 32;
[[nodiscard]] std::byte* SharePlaces();
// Until every thread of the warp that has not ended is here.
void AwaitWarp();

// Every thread of the warp calls it and puts `value` down; use(of) may then ask of(lane) for each
// one's.
template <typename T, typename Use>
void Share(const T& value, Use use) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kShareBytes);
  std::byte* places = SharePlaces();
  std::memcpy(places + Lane() * kShareBytes, &value, sizeof(T));
  AwaitWarp();
  use([places](unsigned lane) {
    T taken;
    std::memcpy(&taken, places + lane * kShareBytes, sizeof(T));
    return taken;
  });
  AwaitWarp();  // before the next value is put down
}

}  // namespace engram::cuda_on_host
