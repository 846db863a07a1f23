// Eight bf16 in one 16-byte access.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

namespace engram::gpu {

// A bf16 is the upper half of an fp32.
__device__ inline void Widen8(const uint4& packed, float (&out)[8]) {
  const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    out[2 * i] = __uint_as_float(words[i] << 16);
    out[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

__device__ inline uint32_t Narrow2(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

__device__ inline uint4 Narrow8(const float (&x)[8]) {
  return {Narrow2(x[0], x[1]), Narrow2(x[2], x[3]), Narrow2(x[4], x[5]), Narrow2(x[6], x[7])};
}

__device__ inline void Load8(const float* x, float (&out)[8]) {
  const float4 a = reinterpret_cast<const float4*>(x)[0];
  const float4 b = reinterpret_cast<const float4*>(x)[1];
  out[0] = a.x;
  out[1] = a.y;
  out[2] = a.z;
  out[3] = a.w;
  out[4] = b.x;
  out[5] = b.y;
  out[6] = b.z;
  out[7] = b.w;
}

__device__ inline void Load8(const __nv_bfloat16* x, float (&out)[8]) {
  Widen8(*reinterpret_cast<const uint4*>(x), out);
}

__device__ inline void Store8(const float (&x)[8], float* out) {
  reinterpret_cast<float4*>(out)[0] = {x[0], x[1], x[2], x[3]};
  reinterpret_cast<float4*>(out)[1] = {x[4], x[5], x[6], x[7]};
}

}  // namespace engram::gpu
