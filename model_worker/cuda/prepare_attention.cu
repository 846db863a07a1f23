// q/k norm, RoPE, and the write into the paged KV cache: one warp for each head of a row.
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/launch.cuh"

namespace engram::gpu {
namespace {

constexpr uint32_t kWarps = 4;

struct Args {
  HeadShape shape;
  RowPlaces places;
  KvCache cache;
  const float* q_norm;
  const float* k_norm;
  const float* cosine;
  const float* sine;
  float eps;
  Bf16* qkv;
};

__device__ Bf16* CachePlace(const Args& a, Bf16* cache, uint32_t slot, uint32_t position,
                            uint32_t kv_head) {
  const auto page = static_cast<uint32_t>(
      a.cache.page_table[size_t{slot} * a.cache.pages_per_slot + position / kPageTokens]);
  return cache +
         ((size_t{page} * a.shape.kv_heads + kv_head) * kPageTokens + position % kPageTokens) *
             a.shape.head_dim;
}

__global__ void PrepareAttentionKernel(Args a) {
  const size_t row = blockIdx.x;
  const uint32_t head = blockIdx.y * kWarps + threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  const HeadShape& shape = a.shape;
  const int32_t slot = a.places.slots[row];
  if (slot < 0 || head >= shape.heads + 2 * shape.kv_heads) return;
  const auto position = static_cast<uint32_t>(a.places.positions[row]);
  const uint32_t dim = shape.head_dim;
  const uint32_t half = dim / 2;
  Bf16* x = a.qkv + row * shape.qkv_width() + size_t{head} * dim;
  if (head >= shape.heads + shape.kv_heads) {
    const uint32_t kv_head = head - shape.heads - shape.kv_heads;
    Bf16* value = CachePlace(a, a.cache.values, static_cast<uint32_t>(slot), position, kv_head);
    for (uint32_t i = lane; i < half; i += 32) {
      reinterpret_cast<uint32_t*>(value)[i] = reinterpret_cast<const uint32_t*>(x)[i];
    }
    return;
  }
  const bool query = head < shape.heads;
  // At most two pairs a lane: head_dim <= 128.
  float first[2] = {}, second[2] = {};
  float sum = 0;
#pragma unroll
  for (uint32_t p = 0; p < 2; ++p) {
    const uint32_t i = lane + 32 * p;
    if (i >= half) continue;
    first[p] = __bfloat162float(x[i]);
    second[p] = __bfloat162float(x[i + half]);
    sum += first[p] * first[p] + second[p] * second[p];
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, step);
  const float inverse = 1.0f / sqrtf(sum / static_cast<float>(dim) + a.eps);
  const float* norm = query ? a.q_norm : a.k_norm;
  Bf16* out = query ? x
                    : CachePlace(a, a.cache.keys, static_cast<uint32_t>(slot), position,
                                 head - shape.heads);
#pragma unroll
  for (uint32_t p = 0; p < 2; ++p) {
    const uint32_t i = lane + 32 * p;
    if (i >= half) continue;
    const float u = first[p] * inverse * norm[i];
    const float v = second[p] * inverse * norm[i + half];
    const float cosine = a.cosine[size_t{position} * half + i];
    const float sine = a.sine[size_t{position} * half + i];
    out[i] = __float2bfloat16_rn(u * cosine - v * sine);
    out[i + half] = __float2bfloat16_rn(v * cosine + u * sine);
  }
}

}  // namespace

cudaError_t LaunchPrepareAttention(const HeadShape& shape, const RowPlaces& places, uint32_t rows,
                                   const float* q_norm, const float* k_norm, float eps,
                                   const float* cosine, const float* sine, const KvCache& cache,
                                   Bf16* qkv, cudaStream_t stream) {
  const Args args{shape, places, cache, q_norm, k_norm, cosine, sine, eps, qkv};
  const dim3 grid(rows, (shape.heads + 2 * shape.kv_heads + kWarps - 1) / kWarps);
  return Launch(PrepareAttentionKernel, grid, kWarps * 32, stream, args);
}

}  // namespace engram::gpu
