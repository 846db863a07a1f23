// Sums over the threads of a block, in a fixed order.
#pragma once

namespace engram::gpu {

inline constexpr int kBlockWarpsMax = 32;

// Every thread of the block gets the sums of kCount values. All threads must call it; blockDim.x is
// a multiple of 32.
template <int kCount>
__device__ inline void BlockSum(float (&values)[kCount]) {
  __shared__ float sums[kBlockWarpsMax][kCount];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    for (int step = 16; step > 0; step /= 2) {
      values[i] += __shfl_xor_sync(0xffffffffu, values[i], step);
    }
  }
  __syncthreads();  // of a call before
  if (lane == 0) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) sums[warp][i] = values[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    float total = 0;
    for (int w = 0; w < warps; ++w) total += sums[w][i];
    values[i] = total;
  }
}

}  // namespace engram::gpu
