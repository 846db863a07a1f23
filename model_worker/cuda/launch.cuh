// Launches as a function, not as kernel<<<...>>>: so the kernels are C++ that tests can also run on
// the host (tests/cuda_on_host).
#pragma once

#include <cstddef>
#include <utility>

#include <cuda_runtime.h>

namespace engram::gpu {

// `grid` blocks of `block` threads on `stream`, with `shared_bytes` of memory for each block
// (DynamicShared, mma.cuh). An error is a launch that was refused.
template <typename... Parameters, typename... Arguments>
[[nodiscard]] cudaError_t LaunchWithShared(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                           size_t shared_bytes, cudaStream_t stream,
                                           Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
}
template <typename... Parameters, typename... Arguments>
[[nodiscard]] cudaError_t Launch(void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                 cudaStream_t stream, Arguments&&... arguments) {
  return LaunchWithShared(kernel, grid, block, 0, stream, std::forward<Arguments>(arguments)...);
}

}  // namespace engram::gpu
