// Rows, staged or of a table on the GPU, -> bf16 values, the numbers of engram/table/row_codec.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/launch.cuh"

namespace engram::gpu {
namespace {

constexpr uint32_t kThreads = 256;
constexpr uint32_t kValuesPerScale = 32;

__device__ float DecodeE4M3(uint8_t bits) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

// 2^(bits - 127), also where that is subnormal; 255 is NaN.
__device__ float DecodeUE8M0(uint8_t bits) {
  if (bits == 0) return __uint_as_float(0x00400000u);
  return __uint_as_float(bits == 255 ? 0x7fc00000u : uint32_t{bits} << 23);
}

// Eight values from `first` on of a row in the F8_E4M3 format.
template <bool kAligned>
__device__ uint4 DecodeFp8(const uint8_t* row, uint32_t row_values, uint32_t first) {
  uint8_t codes[8];
  if (kAligned) {
    *reinterpret_cast<uint2*>(codes) = __ldcs(reinterpret_cast<const uint2*>(row + first));
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) codes[i] = row[first + i];
  }
  const float scale = DecodeUE8M0(row[row_values + first / kValuesPerScale]);
  float values[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) values[i] = DecodeE4M3(codes[i]) * scale;
  return Narrow8(values);
}

// The row of a token's column.
__device__ const std::byte* RowAt(const StagedRows& rows, uint32_t token, uint32_t column,
                                  uint32_t row_bytes) {
  const size_t place = size_t{token} * rows.columns + column;
  return rows.staged + (rows.ids == nullptr ? place : size_t{rows.ids[place]}) * row_bytes;
}

// A block: values of one row of the step (x) in units of eight (y).
template <bool kAligned>
__global__ void DecodeFp8Kernel(StagedRows rows, uint32_t row_bytes, Bf16* values,
                                uint8_t* dead_out) {
  const uint32_t token = blockIdx.x;
  const uint32_t width = rows.columns * rows.row_values;
  const uint32_t at = (blockIdx.y * kThreads + threadIdx.x) * 8;
  const bool live = token < rows.tokens && (rows.dead == nullptr || rows.dead[token] == 0);
  if (at == 0) dead_out[token] = live ? 0 : 1;
  if (at >= width) return;
  uint4 decoded = {0, 0, 0, 0};
  if (live) {
    const std::byte* row = RowAt(rows, token, at / rows.row_values, row_bytes);
    decoded = DecodeFp8<kAligned>(reinterpret_cast<const uint8_t*>(row), rows.row_values,
                                  at % rows.row_values);
  }
  *reinterpret_cast<uint4*>(values + size_t{token} * width + at) = decoded;
}

__device__ float DecodePlain(RowFormat format, const std::byte* p) {
  switch (format) {
    case RowFormat::kBf16:
      return __bfloat162float(*reinterpret_cast<const Bf16*>(p));
    case RowFormat::kF16:
      return __half2float(*reinterpret_cast<const __half*>(p));
    default:
      return *reinterpret_cast<const float*>(p);
  }
}

__global__ void DecodePlainKernel(StagedRows rows, uint32_t value_bytes, Bf16* values,
                                  uint8_t* dead_out) {
  const uint32_t token = blockIdx.x;
  const uint32_t width = rows.columns * rows.row_values;
  const uint32_t at = blockIdx.y * kThreads + threadIdx.x;
  const bool live = token < rows.tokens && (rows.dead == nullptr || rows.dead[token] == 0);
  if (at == 0) dead_out[token] = live ? 0 : 1;
  if (at >= width) return;
  float value = 0.0f;
  if (live) {
    const std::byte* row = RowAt(rows, token, at / rows.row_values, rows.row_values * value_bytes);
    value = DecodePlain(rows.format, row + at % rows.row_values * value_bytes);
  }
  values[size_t{token} * width + at] = __float2bfloat16_rn(value);
}

}  // namespace

cudaError_t LaunchDecodeRows(const StagedRows& rows, uint32_t row_count, Bf16* values,
                             uint8_t* dead_out, cudaStream_t stream) {
  const uint32_t width = rows.columns * rows.row_values;
  if (rows.format != RowFormat::kF8E4M3ScaleE8M0) {
    const uint32_t value_bytes = rows.format == RowFormat::kF32 ? 4 : 2;
    const dim3 grid(row_count, (width + kThreads - 1) / kThreads);
    return Launch(DecodePlainKernel, grid, kThreads, stream, rows, value_bytes, values, dead_out);
  }
  const uint32_t row_bytes = rows.row_values + rows.row_values / kValuesPerScale;
  const dim3 grid(row_count, (width / 8 + kThreads - 1) / kThreads);
  const auto kernel = row_bytes % 8 == 0 ? DecodeFp8Kernel<true> : DecodeFp8Kernel<false>;
  return Launch(kernel, grid, kThreads, stream, rows, row_bytes, values, dead_out);
}

}  // namespace engram::gpu
