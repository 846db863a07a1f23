// CUDA's device language on the host: what kernels without tensor cores say, in plain C++. The
// compiler is told to include it first, as nvcc does with its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "tests/cuda_on_host/block_threads.h"
#include "tests/cuda_on_host/cuda_runtime_api.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
// Blocks run one after the other: what a block shares is there once.
#define __shared__ static

struct uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct dim3 {
  // NOLINTNEXTLINE(google-explicit-constructor): as CUDA's
  constexpr dim3(unsigned x_size = 1, unsigned y_size = 1, unsigned z_size = 1)
      : x(x_size), y(y_size), z(z_size) {}
  unsigned x, y, z;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
};

// Of the thread that runs.
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 grid = config->gridDim;
  const dim3 block = config->blockDim;
  const unsigned threads = block.x * block.y * block.z;
  if (grid.x * grid.y * grid.z == 0 || threads == 0 || threads > 1024) return cudaErrorInvalidValue;
  gridDim = grid;
  blockDim = block;
  for (unsigned i = 0; i < grid.x * grid.y * grid.z; ++i) {
    blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
    engram::cuda_on_host::RunBlock(
        threads, [&] { kernel(static_cast<Parameters>(arguments)...); },
        [&](unsigned thread) {
          threadIdx =
              dim3(thread % block.x, thread / block.x % block.y, thread / block.x / block.y);
        });
  }
  return cudaSuccess;
}

inline void __syncthreads() { engram::cuda_on_host::AwaitBlock(); }

// Every lane's value is put down, then each takes the one that it wants.
template <typename T>
T __shfl_sync(unsigned mask, T value, int lane) {
  return engram::cuda_on_host::Exchange(mask, value, static_cast<unsigned>(lane) % 32);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return engram::cuda_on_host::Exchange(
      mask, value, engram::cuda_on_host::Lane() ^ static_cast<unsigned>(lanes));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned lanes) {
  const unsigned lane = engram::cuda_on_host::Lane();
  return engram::cuda_on_host::Exchange(mask, value, lane < lanes ? lane : lane - lanes);
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  unsigned ballot = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    if (engram::cuda_on_host::Exchange(mask, predicate, lane) != 0) ballot |= 1u << lane;
  }
  return ballot;
}

// Nobody else runs meanwhile.
template <typename T>
T atomicAdd(T* at, T value) {
  const T before = *at;
  *at += value;
  return before;
}

using std::max;
using std::min;
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }
inline float __expf(float x) { return std::exp(x); }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
inline unsigned long long __float2ull_rn(float x) {
  return static_cast<unsigned long long>(std::nearbyint(x));
}
template <typename T>
T __ldcs(const T* at) {
  return *at;
}
