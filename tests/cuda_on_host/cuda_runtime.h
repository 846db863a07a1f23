// CUDA's device language on the host: what our kernels say, in plain C++. What they say in PTX is
// in model_worker/cuda/ beside this file. The compiler is told to include this first, as nvcc does
// with its own.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

#include "tests/cuda_on_host/block_threads.h"
#include "tests/cuda_on_host/cuda_runtime_api.h"

#define __device__
#define __host__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// The blocks of a device run one after the other: what a block shares is there once.
#define __shared__ static thread_local

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
inline thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

// The dynamic shared memory of the block that runs.
inline thread_local std::vector<std::max_align_t> engram_dynamic_shared;

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const dim3 grid = config->gridDim;
  const dim3 block = config->blockDim;
  const size_t shared = config->dynamicSmemBytes;
  const unsigned blocks = grid.x * grid.y * grid.z;
  const unsigned threads = block.x * block.y * block.z;
  if (blocks == 0 || threads == 0 || threads > 1024) return cudaErrorInvalidValue;
  const auto run = [=, parameters = std::tuple<Parameters...>(arguments...)] {
    gridDim = grid;
    blockDim = block;
    engram_dynamic_shared.resize(shared / sizeof(std::max_align_t) + 1);
    std::vector<dim3> places;
    for (unsigned t = 0; t < threads; ++t) {
      places.emplace_back(t % block.x, t / block.x % block.y, t / block.x / block.y);
    }
    for (unsigned i = 0; i < blocks; ++i) {
      blockIdx = dim3(i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y);
      engram::cuda_on_host::RunBlock(
          threads, [&] { std::apply(kernel, parameters); },
          [&](unsigned thread) { threadIdx = places[thread]; });
    }
  };
  engram::cuda_on_host::Enqueue(config->stream, {run});
  return cudaSuccess;
}
template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel /*kernel*/, cudaFuncAttribute /*which*/, int /*value*/) {
  return cudaSuccess;
}

inline void __syncthreads() { engram::cuda_on_host::AwaitBlock(); }

// Only whole warps do these: no kernel of ours has another mask.
template <typename T>
T __shfl_sync(unsigned /*mask*/, T value, int lane) {
  T taken;
  engram::cuda_on_host::Share(value,
                              [&](auto of) { taken = of(static_cast<unsigned>(lane) % 32); });
  return taken;
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  return __shfl_sync(mask, value, static_cast<int>(engram::cuda_on_host::Lane()) ^ lanes);
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
