// Attention of one new token a sequence over the paged KV cache. Bound by memory bandwidth: every
// key and value is read once for all the query heads that share it, and a long sequence is cut into
// parts (split-K), whose results a second kernel merges.
#include <algorithm>

#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"

namespace engram::gpu {
namespace {

constexpr uint32_t kWarps = 4;
// Positions that a group of lanes loads before it uses the first: 8 loads of 16 bytes in flight.
constexpr int kUnroll = 4;
// Below every real score, and finite: exp2(kNoScore - kNoScore) is 1, not NaN.
constexpr float kNoScore = -1e30f;

struct Args {
  HeadShape shape;
  RowPlaces places;
  KvCache cache;
  DecodeSplits splits;
  const int32_t* decode_rows;
  const Bf16* qkv;
  float scale_log2;  // 1 / sqrt(head_dim) * log2(e)
  float* partials;   // [decodes][heads][splits.count][head_dim + 2]: sums, maximum, sum of weights
  Bf16* out;
};

__device__ uint32_t SplitsUsed(uint32_t length, const DecodeSplits& splits) {
  return (length + splits.tokens - 1) / splits.tokens;
}

// Attention over some positions, for kHeads query heads: a running softmax.
template <int kHeads>
struct Running {
  float maximum[kHeads], weight_sum[kHeads], sums[kHeads][8];
};

// Adds `other`'s share to `mine`, of one head.
__device__ void Merge(float& maximum, float& weight_sum, float other_maximum, float other_weight_sum,
                      float& mine_factor, float& other_factor) {
  const float top = fmaxf(maximum, other_maximum);
  mine_factor = exp2f(maximum - top);
  other_factor = exp2f(other_maximum - top);
  weight_sum = weight_sum * mine_factor + other_weight_sum * other_factor;
  maximum = top;
}

// A block: one part of one sequence, for one KV head and kHeads of its query heads. kDim / 8 lanes
// share a position, 8 values each; the groups of lanes take positions in turn.
template <int kDim, int kHeads>
__global__ void __launch_bounds__(kWarps * 32) DecodeAttentionKernel(Args a) {
  constexpr uint32_t kLanes = kDim / 8;
  constexpr uint32_t kGroups = kWarps * 32 / kLanes;
  const int32_t row = a.decode_rows[blockIdx.x];
  if (row < 0) return;
  const HeadShape& shape = a.shape;
  const uint32_t group_heads = shape.heads / shape.kv_heads;
  const uint32_t chunks = (group_heads + kHeads - 1) / kHeads;
  const uint32_t kv_head = blockIdx.y / chunks;
  const uint32_t first_head = blockIdx.y % chunks * kHeads;  // within the group
  const uint32_t length = static_cast<uint32_t>(a.places.positions[row]) + 1;
  const uint32_t begin = blockIdx.z * a.splits.tokens;
  if (begin >= length) return;
  const uint32_t end = min(begin + a.splits.tokens, length);

  const uint32_t lane = threadIdx.x % kLanes;
  const uint32_t group = threadIdx.x / kLanes;
  const uint32_t dim = shape.head_dim;
  const bool has_values = lane * 8 < dim;
  const Bf16* q_row = a.qkv + static_cast<size_t>(row) * shape.qkv_width() +
                      size_t{kv_head} * group_heads * dim;
  float query[kHeads][8];
  Running<kHeads> run;
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
    run.maximum[h] = kNoScore;
    run.weight_sum[h] = 0;
#pragma unroll
    for (int j = 0; j < 8; ++j) query[h][j] = run.sums[h][j] = 0;
    if (has_values && first_head + h < group_heads) {
      Load8(q_row + (first_head + h) * dim + lane * 8, query[h]);
    }
#pragma unroll
    for (int j = 0; j < 8; ++j) query[h][j] *= a.scale_log2;
  }

  const int32_t* pages =
      a.cache.page_table + static_cast<size_t>(a.places.slots[row]) * a.cache.pages_per_slot;
  for (uint32_t at = begin; at < end; at += kGroups * kUnroll) {
    uint4 keys[kUnroll], values[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const uint32_t position = at + u * kGroups + group;
      keys[u] = values[u] = {0, 0, 0, 0};
      if (position >= end || !has_values) continue;
      const auto page = static_cast<uint32_t>(pages[position / kPageTokens]);
      const size_t offset =
          ((size_t{page} * shape.kv_heads + kv_head) * kPageTokens + position % kPageTokens) * dim +
          lane * 8;
      keys[u] = __ldcs(reinterpret_cast<const uint4*>(a.cache.keys + offset));
      values[u] = __ldcs(reinterpret_cast<const uint4*>(a.cache.values + offset));
    }
    float scores[kUnroll][kHeads];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float key[8];
      Widen8(keys[u], key);
      const bool real = at + u * kGroups + group < end;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        float score = 0;
#pragma unroll
        for (int j = 0; j < 8; ++j) score += query[h][j] * key[j];
#pragma unroll
        for (int step = kLanes / 2; step > 0; step /= 2) {
          score += __shfl_xor_sync(0xffffffffu, score, step);
        }
        scores[u][h] = real ? score : kNoScore;
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      float top = run.maximum[h];
#pragma unroll
      for (int u = 0; u < kUnroll; ++u) top = fmaxf(top, scores[u][h]);
      const float factor = exp2f(run.maximum[h] - top);
      run.maximum[h] = top;
      run.weight_sum[h] *= factor;
#pragma unroll
      for (int j = 0; j < 8; ++j) run.sums[h][j] *= factor;
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      float value[8];
      Widen8(values[u], value);
      const bool real = at + u * kGroups + group < end;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        const float weight = real ? exp2f(scores[u][h] - run.maximum[h]) : 0.0f;
        run.weight_sum[h] += weight;
#pragma unroll
        for (int j = 0; j < 8; ++j) run.sums[h][j] += weight * value[j];
      }
    }
  }

  // The groups of a warp, then the warps.
#pragma unroll
  for (int h = 0; h < kHeads; ++h) {
#pragma unroll
    for (uint32_t step = kLanes; step < 32; step *= 2) {
      const float maximum = __shfl_xor_sync(0xffffffffu, run.maximum[h], step);
      const float weight_sum = __shfl_xor_sync(0xffffffffu, run.weight_sum[h], step);
      float mine = 0, others = 0;
      Merge(run.maximum[h], run.weight_sum[h], maximum, weight_sum, mine, others);
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        const float other = __shfl_xor_sync(0xffffffffu, run.sums[h][j], step);
        run.sums[h][j] = run.sums[h][j] * mine + other * others;
      }
    }
  }
  __shared__ float sums[kWarps][kHeads][kDim];
  __shared__ float maxima[kWarps][kHeads], weight_sums[kWarps][kHeads];
  const uint32_t warp = threadIdx.x / 32;
  if (threadIdx.x % 32 < kLanes) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      Store8(run.sums[h], &sums[warp][h][lane * 8]);
      if (lane == 0) {
        maxima[warp][h] = run.maximum[h];
        weight_sums[warp][h] = run.weight_sum[h];
      }
    }
  }
  __syncthreads();
  const bool whole = SplitsUsed(length, a.splits) == 1;
  for (uint32_t i = threadIdx.x; i < kHeads * kDim; i += kWarps * 32) {
    const uint32_t h = i / kDim;
    const uint32_t d = i % kDim;
    if (first_head + h >= group_heads || d >= dim) continue;
    float maximum = kNoScore, weight_sum = 0, sum = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) {
      float mine = 0, others = 0;
      Merge(maximum, weight_sum, maxima[w][h], weight_sums[w][h], mine, others);
      sum = sum * mine + sums[w][h][d] * others;
    }
    const uint32_t head = kv_head * group_heads + first_head + h;
    if (whole) {
      a.out[(static_cast<size_t>(row) * shape.heads + head) * dim + d] =
          __float2bfloat16_rn(sum / weight_sum);
      continue;
    }
    float* partial =
        a.partials + ((size_t{blockIdx.x} * shape.heads + head) * a.splits.count + blockIdx.z) *
                         (dim + 2);
    partial[d] = sum;
    if (d == 0) {
      partial[dim] = maximum;
      partial[dim + 1] = weight_sum;
    }
  }
}

// Merges the parts of one head of one row.
__global__ void MergePartsKernel(Args a) {
  const int32_t row = a.decode_rows[blockIdx.x];
  if (row < 0) return;
  const uint32_t used =
      SplitsUsed(static_cast<uint32_t>(a.places.positions[row]) + 1, a.splits);
  const uint32_t dim = a.shape.head_dim;
  const uint32_t d = threadIdx.x;
  if (used == 1 || d >= dim) return;
  const uint32_t head = blockIdx.y;
  const float* partial =
      a.partials + (size_t{blockIdx.x} * a.shape.heads + head) * a.splits.count * (dim + 2);
  float maximum = kNoScore, weight_sum = 0, sum = 0;
  for (uint32_t s = 0; s < used; ++s, partial += dim + 2) {
    float mine = 0, others = 0;
    Merge(maximum, weight_sum, partial[dim], partial[dim + 1], mine, others);
    sum = sum * mine + partial[d] * others;
  }
  a.out[(static_cast<size_t>(row) * a.shape.heads + head) * dim + d] =
      __float2bfloat16_rn(sum / weight_sum);
}

template <int kDim>
cudaError_t LaunchFor(const Args& args, uint32_t decodes, cudaStream_t stream) {
  const uint32_t group_heads = args.shape.heads / args.shape.kv_heads;
  const uint32_t block_heads = DecodeHeadsPerBlock(group_heads);
  const dim3 grid(decodes,
                  args.shape.kv_heads * ((group_heads + block_heads - 1) / block_heads),
                  args.splits.count);
  switch (block_heads) {
    case 1:
      DecodeAttentionKernel<kDim, 1><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 2:
      DecodeAttentionKernel<kDim, 2><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    case 4:
      DecodeAttentionKernel<kDim, 4><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
    default:
      DecodeAttentionKernel<kDim, 8><<<grid, kWarps * 32, 0, stream>>>(args);
      break;
  }
  if (const cudaError_t error = cudaGetLastError(); error != cudaSuccess) return error;
  if (args.splits.count == 1) return cudaSuccess;
  MergePartsKernel<<<dim3(decodes, args.shape.heads), kDim, 0, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t LaunchDecodeAttention(const HeadShape& shape, const RowPlaces& places,
                                  const int32_t* decode_rows, uint32_t decodes,
                                  const DecodeSplits& splits, const KvCache& cache, const Bf16* qkv,
                                  float* partials, Bf16* out, cudaStream_t stream) {
  if (decodes == 0) return cudaSuccess;
  constexpr float kLog2E = 1.44269504088896341f;
  const float scale = kLog2E / sqrtf(static_cast<float>(shape.head_dim));
  const Args args{shape, places, cache, splits, decode_rows, qkv, scale, partials, out};
  switch (PaddedHeadDim(shape.head_dim)) {
    case 32:
      return LaunchFor<32>(args, decodes, stream);
    case 64:
      return LaunchFor<64>(args, decodes, stream);
    case 128:
      return LaunchFor<128>(args, decodes, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace engram::gpu
