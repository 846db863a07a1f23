// What an Engram layer does to the residual stream, for one branch; the formulas are in
// model_worker/fusion.h. The matrix product that gives keys and value stands between the decoding
// of rows and this, so the two are not one kernel.
#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/block_sum.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/launch.cuh"
#include "model_worker/fusion.h"

namespace engram::gpu {
namespace {

constexpr float kGateFloor = 1e-6f;
constexpr uint32_t kThreads = 256;

__device__ float Sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

__device__ float InverseRms(float square_sum, float eps, uint32_t width) {
  return 1.0f / sqrtf(square_sum / static_cast<float>(width) + eps);
}

// A block: one row.
__global__ void FuseV41Kernel(const Bf16* keys_value, const float* query_key, const uint8_t* dead,
                              float eps, uint32_t width, float* hidden) {
  const size_t row = blockIdx.x;
  if (dead[row] != 0) return;
  const Bf16* key = keys_value + row * 2 * width;
  const Bf16* value = key + width;
  float* h_row = hidden + row * width;
  float sums[3] = {0, 0, 0};  // h * query * key norms, h^2, key^2
  for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float h[8], k[8], weight[8];
    Load8(h_row + i, h);
    Load8(key + i, k);
    Load8(query_key + i, weight);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      sums[0] += h[j] * weight[j] * k[j];
      sums[1] += h[j] * h[j];
      sums[2] += k[j] * k[j];
    }
  }
  BlockSum(sums);
  const float s = sums[0] * InverseRms(sums[1], eps, width) * InverseRms(sums[2], eps, width) /
                  sqrtf(static_cast<float>(width));
  const float root = sqrtf(fmaxf(fabsf(s), kGateFloor));
  const float gate = Sigmoid(s < 0 ? -root : root);
  for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float h[8], v[8];
    Load8(h_row + i, h);  // from the cache
    Load8(value + i, v);
#pragma unroll
    for (int j = 0; j < 8; ++j) h[j] += gate * v[j];
    Store8(h, h_row + i);
  }
}

// A block: one row.
__global__ void GateDemoKernel(DemoFusion fusion, const Bf16* keys_value, const float* hidden,
                               float* gated, float* normed) {
  const size_t row = blockIdx.x;
  const uint32_t width = fusion.width;
  const Bf16* key = keys_value + row * 2 * width;
  const Bf16* value = key + width;
  const float* h_row = hidden + row * width;
  float sums[4] = {0, 0, 0, 0};  // h * norms * key, h^2, key^2, value^2
  for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float h[8], k[8], v[8], weight[8], key_bias[8], value_bias[8];
    Load8(h_row + i, h);
    Load8(key + i, k);
    Load8(value + i, v);
    Load8(fusion.query_key + i, weight);
    Load8(fusion.bias + i, key_bias);
    Load8(fusion.bias + width + i, value_bias);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      k[j] += key_bias[j];
      v[j] += value_bias[j];
      sums[0] += h[j] * weight[j] * k[j];
      sums[1] += h[j] * h[j];
      sums[2] += k[j] * k[j];
      sums[3] += v[j] * v[j];
    }
  }
  BlockSum(sums);
  const float s = sums[0] * InverseRms(sums[1], kDemoNormEps, width) *
                  InverseRms(sums[2], kDemoNormEps, width) / sqrtf(static_cast<float>(width));
  const float root = sqrtf(fmaxf(fabsf(s), kGateFloor));
  const float gate = Sigmoid(s == 0 ? 0.0f : copysignf(root, s));
  const float conv_inverse = InverseRms(gate * gate * sums[3], kDemoConvEps, width);
  for (uint32_t i = threadIdx.x * 8; i < width; i += blockDim.x * 8) {
    float v[8], value_bias[8], weight[8], scaled[8];
    Load8(value + i, v);
    Load8(fusion.bias + width + i, value_bias);
    Load8(fusion.conv_norm + i, weight);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      v[j] = gate * (v[j] + value_bias[j]);
      scaled[j] = v[j] * conv_inverse * weight[j];
    }
    Store8(v, gated + row * width + i);
    Store8(scaled, normed + row * width + i);
  }
}

// A thread: one channel of one row.
__global__ void ConvolveDemoKernel(DemoFusion fusion, DemoParts parts, RowPlaces places,
                                   const float* gated, const float* normed, const float* history,
                                   float* hidden) {
  const size_t row = blockIdx.x;
  const uint32_t channel = blockIdx.y * kThreads + threadIdx.x;
  const int32_t part = parts.row_parts[row];
  if (part < 0 || channel >= fusion.width) return;
  const size_t width = fusion.width;
  const int32_t in_part = static_cast<int32_t>(row) - parts.part_begins[part];
  const int32_t position = places.positions[row];
  const auto history_rows = static_cast<int32_t>(fusion.history_rows());
  const float* slot_history =
      history + static_cast<size_t>(places.slots[row]) * fusion.history_rows() * width;
  float sum = 0;
  // Tap kernel - 1 is the token itself, tap 0 the furthest back.
  for (uint32_t tap = 0; tap < fusion.kernel; ++tap) {
    const auto back = static_cast<int32_t>((fusion.kernel - 1 - tap) * fusion.dilation);
    if (back > position) continue;  // before the sequence's start
    const float* seen =
        back <= in_part ? normed + (row - static_cast<size_t>(back)) * width
                        : slot_history + static_cast<size_t>(history_rows + in_part - back) * width;
    sum += fusion.conv[size_t{channel} * fusion.kernel + tap] * seen[channel];
  }
  hidden[row * width + channel] += gated[row * width + channel] + sum * Sigmoid(sum);
}

// A thread: one channel of one sequence. Row j of the new history is row j + length of the old one
// with the part's rows behind it, so going up never overwrites what is still needed.
__global__ void KeepHistoryKernel(DemoFusion fusion, DemoParts parts, const float* normed,
                                  float* history) {
  const uint32_t part = blockIdx.x;
  const uint32_t channel = blockIdx.y * kThreads + threadIdx.x;
  const int32_t slot = parts.part_slots[part];
  if (slot < 0 || channel >= fusion.width) return;
  const size_t width = fusion.width;
  const uint32_t history_rows = fusion.history_rows();
  const auto length = static_cast<uint32_t>(parts.part_lengths[part]);
  const auto begin = static_cast<uint32_t>(parts.part_begins[part]);
  float* slot_history = history + static_cast<size_t>(slot) * history_rows * width;
  for (uint32_t j = 0; j < history_rows; ++j) {
    const uint32_t from = j + length;
    slot_history[j * width + channel] =
        from < history_rows ? slot_history[from * width + channel]
                            : normed[(begin + from - history_rows) * width + channel];
  }
}

}  // namespace

cudaError_t LaunchFuseV41(const Bf16* keys_value, const float* query_key, const uint8_t* dead,
                          float eps, uint32_t rows, uint32_t width, float* hidden,
                          cudaStream_t stream) {
  return Launch(FuseV41Kernel, rows, RowThreads(width / 8), stream, keys_value, query_key, dead,
                eps, width, hidden);
}

cudaError_t LaunchGateDemo(const DemoFusion& fusion, const Bf16* keys_value, const float* hidden,
                           uint32_t rows, float* gated, float* normed, cudaStream_t stream) {
  return Launch(GateDemoKernel, rows, RowThreads(fusion.width / 8), stream, fusion, keys_value,
                hidden, gated, normed);
}

cudaError_t LaunchConvolveDemo(const DemoFusion& fusion, const DemoParts& parts,
                               const RowPlaces& places, uint32_t rows, uint32_t part_count,
                               const float* gated, const float* normed, float* history,
                               float* hidden, cudaStream_t stream) {
  const uint32_t blocks = (fusion.width + kThreads - 1) / kThreads;
  const cudaError_t error = Launch(ConvolveDemoKernel, dim3(rows, blocks), kThreads, stream, fusion,
                                   parts, places, gated, normed, history, hidden);
  if (error != cudaSuccess || fusion.history_rows() == 0) return error;
  return Launch(KeepHistoryKernel, dim3(part_count, blocks), kThreads, stream, fusion, parts,
                normed, history);
}

}  // namespace engram::gpu
