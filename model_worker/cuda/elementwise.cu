// Embedding, RMSNorm, SwiGLU, and what fills weights and the page table.
#include <algorithm>

#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/block_sum.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/launch.cuh"

namespace engram::gpu {
namespace {

constexpr uint32_t kThreads = 256;

__global__ void ToBf16Kernel(const float* x, size_t count, Bf16* out) {
  const size_t stride = size_t{gridDim.x} * blockDim.x;
  for (size_t i = size_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count; i += stride) {
    out[i] = __float2bfloat16_rn(x[i]);
  }
}

__global__ void SetPagesKernel(const int32_t* indices, const int32_t* values, uint32_t count,
                               int32_t* page_table) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < count && indices[i] >= 0) page_table[indices[i]] = values[i];
}

__global__ void EmbedKernel(const int32_t* tokens, const Bf16* table, uint32_t width,
                            float* hidden) {
  const size_t row = blockIdx.x;
  const int32_t token = tokens[row];
  for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float values[8] = {};
    if (token >= 0) Load8(table + size_t{static_cast<uint32_t>(token)} * width + i, values);
    Store8(values, hidden + row * width + i);
  }
}

__global__ void RmsNormKernel(const float* x, const float* weight, float eps, const int32_t* picked,
                              uint32_t width, Bf16* out) {
  const size_t row = blockIdx.x;
  const int32_t source = picked == nullptr ? static_cast<int32_t>(row) : picked[row];
  uint4* out_row = reinterpret_cast<uint4*>(out + row * width);
  if (source < 0) {
    for (uint32_t i = threadIdx.x; i < width / 8; i += blockDim.x) out_row[i] = {0, 0, 0, 0};
    return;
  }
  const float* x_row = x + size_t{static_cast<uint32_t>(source)} * width;
  float sum[1] = {0};
  float values[8];
  for (uint32_t i = threadIdx.x; i < width / 8; i += blockDim.x) {
    Load8(x_row + 8 * i, values);
#pragma unroll
    for (int j = 0; j < 8; ++j) sum[0] += values[j] * values[j];
  }
  BlockSum(sum);
  const float inverse = 1.0f / sqrtf(sum[0] / static_cast<float>(width) + eps);
  float weights[8];
  for (uint32_t i = threadIdx.x; i < width / 8; i += blockDim.x) {
    Load8(x_row + 8 * i, values);  // from the cache
    Load8(weight + 8 * i, weights);
#pragma unroll
    for (int j = 0; j < 8; ++j) values[j] = values[j] * inverse * weights[j];
    out_row[i] = Narrow8(values);
  }
}

__device__ float SiluMultiply(float gate, float up) { return gate / (1.0f + __expf(-gate)) * up; }

__global__ void SwiGlu8Kernel(const Bf16* gate_up, uint32_t width, Bf16* out) {
  const size_t row = blockIdx.x;
  const uint32_t i = (blockIdx.y * blockDim.x + threadIdx.x) * 8;
  if (i >= width) return;
  float gate[8], up[8];
  Load8(gate_up + row * 2 * width + i, gate);
  Load8(gate_up + row * 2 * width + width + i, up);
#pragma unroll
  for (int j = 0; j < 8; ++j) gate[j] = SiluMultiply(gate[j], up[j]);
  *reinterpret_cast<uint4*>(out + row * width + i) = Narrow8(gate);
}

// For widths that are no multiple of 8.
__global__ void SwiGluKernel(const Bf16* gate_up, uint32_t width, Bf16* out) {
  const size_t row = blockIdx.x;
  const uint32_t i = blockIdx.y * blockDim.x + threadIdx.x;
  if (i >= width) return;
  const float gate = __bfloat162float(gate_up[row * 2 * width + i]);
  const float up = __bfloat162float(gate_up[row * 2 * width + width + i]);
  out[row * width + i] = __float2bfloat16_rn(SiluMultiply(gate, up));
}

}  // namespace

cudaError_t LaunchToBf16(const float* x, size_t count, Bf16* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto blocks =
      static_cast<uint32_t>(std::min<size_t>((count + kThreads - 1) / kThreads, 65535));
  return Launch(ToBf16Kernel, blocks, kThreads, stream, x, count, out);
}

cudaError_t LaunchSetPages(const int32_t* indices, const int32_t* values, uint32_t count,
                           int32_t* page_table, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  return Launch(SetPagesKernel, (count + kThreads - 1) / kThreads, kThreads, stream, indices,
                values, count, page_table);
}

cudaError_t LaunchEmbed(const int32_t* tokens, const Bf16* table, uint32_t rows, uint32_t width,
                        float* hidden, cudaStream_t stream) {
  return Launch(EmbedKernel, rows, RowThreads(width / 8), stream, tokens, table, width, hidden);
}

cudaError_t LaunchRmsNorm(const float* x, const float* weight, float eps, const int32_t* picked,
                          uint32_t rows, uint32_t width, Bf16* out, cudaStream_t stream) {
  return Launch(RmsNormKernel, rows, RowThreads(width / 8), stream, x, weight, eps, picked, width,
                out);
}

cudaError_t LaunchSwiGlu(const Bf16* gate_up, uint32_t rows, uint32_t width, Bf16* out,
                         cudaStream_t stream) {
  if (width % 8 == 0) {
    const dim3 grid(rows, (width / 8 + kThreads - 1) / kThreads);
    return Launch(SwiGlu8Kernel, grid, kThreads, stream, gate_up, width, out);
  }
  const dim3 grid(rows, (width + kThreads - 1) / kThreads);
  return Launch(SwiGluKernel, grid, kThreads, stream, gate_up, width, out);
}

}  // namespace engram::gpu
