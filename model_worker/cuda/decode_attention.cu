// Attention of one new token a sequence over the paged KV cache. Bound by memory bandwidth: every
// key and value is read once for all the query heads that share it, straight into registers in the
// layout of the tensor cores, and a long sequence is cut into parts (split-K), whose results a
// second kernel merges.
#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/launch.cuh"
#include "model_worker/cuda/mma.cuh"

namespace engram::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kTile = 16;       // positions that a warp takes at once
constexpr uint32_t kBlockHeads = 8;  // query heads of a block
static_assert(kPageTokens % kTile == 0 && kSplitTokensMin % (kWarps * kTile) == 0);
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

// Adds `other`'s share to `mine`, of one head.
__device__ void Merge(float& maximum, float& weight_sum, float other_maximum,
                      float other_weight_sum, float& mine_factor, float& other_factor) {
  const float top = fmaxf(maximum, other_maximum);
  mine_factor = exp2f(maximum - top);
  other_factor = exp2f(other_maximum - top);
  weight_sum = weight_sum * mine_factor + other_weight_sum * other_factor;
  maximum = top;
}

// What a warp carries from tile to tile: 8 heads. A lane has two of them, 2c and 2c + 1 (mma.cuh).
template <int kDim>
struct WarpState {
  // Of head g: values 32 i + 8 c to 32 i + 8 c + 7. That is no fragment's order, but keys are read
  // in the same one, and a dot product does not care.
  uint4 query[kDim / 32];
  // [16 values][heads]; row r of tile 2 i + j is value 32 i + r % 8 / 2 * 8 + 4 j + r / 8 * 2 + r %
  // 2: the order in which values lie in a lane's 16 bytes.
  float sums[kDim / 16][4];
  float maximum[2];
  float weight_sum[2];  // this lane's positions only
};

// Keys or values of 16 positions: rows g and g + 8, in the order of WarpState::query.
template <int kDim>
struct TileRows {
  uint4 low[kDim / 32], high[kDim / 32];
};

// `first` is the tile's first row; rows from `real` on and values from head_dim on are zeros.
template <int kDim>
__device__ void LoadTile(const Bf16* first, uint32_t real, uint32_t dim, TileRows<kDim>& rows) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane / 4;
#pragma unroll
  for (uint32_t i = 0; i < kDim / 32; ++i) {
    const uint32_t column = 32 * i + lane % 4 * 8;
    rows.low[i] = rows.high[i] = {0, 0, 0, 0};
    if (column >= dim) continue;
    const Bf16* p = first + row * dim + column;
    if (row < real) rows.low[i] = __ldcs(reinterpret_cast<const uint4*>(p));
    if (row + 8 < real) rows.high[i] = __ldcs(reinterpret_cast<const uint4*>(p + 8 * dim));
  }
}

// scores [16 positions][8 heads] = keys queries^T.
template <int kDim>
__device__ void Score(const WarpState<kDim>& state, const TileRows<kDim>& keys,
                      float (&scores)[4]) {
#pragma unroll
  for (uint32_t i = 0; i < kDim / 32; ++i) {
    const uint4& low = keys.low[i];
    const uint4& high = keys.high[i];
    const uint4& query = state.query[i];
    MultiplyAdd(scores, {low.x, high.x, low.y, high.y}, query.x, query.y);
    MultiplyAdd(scores, {low.z, high.z, low.w, high.w}, query.z, query.w);
  }
}

// Scores -> weights, with the running maximum. Positions from `real` on weigh nothing.
template <int kDim>
__device__ void Weigh(WarpState<kDim>& state, float scale_log2, uint32_t real, float (&scores)[4]) {
  const uint32_t row = threadIdx.x % 32 / 4;
#pragma unroll
  for (uint32_t i = 0; i < 4; ++i) {
    scores[i] = row + i / 2 * 8 < real ? scores[i] * scale_log2 : kNoScore;
  }
  float factor[2];
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    float top = fmaxf(scores[h], scores[h + 2]);
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, step));
    }
    top = fmaxf(top, state.maximum[h]);
    factor[h] = exp2f(state.maximum[h] - top);
    state.maximum[h] = top;
#pragma unroll
    for (uint32_t i = h; i < 4; i += 2) {
      scores[i] = scores[i] == kNoScore ? 0.0f : exp2f(scores[i] - top);
    }
    state.weight_sum[h] = state.weight_sum[h] * factor[h] + scores[h] + scores[h + 2];
  }
#pragma unroll
  for (uint32_t t = 0; t < kDim / 16; ++t) {
#pragma unroll
    for (uint32_t i = 0; i < 4; ++i) state.sums[t][i] *= factor[i % 2];
  }
}

// sums [values][heads] += values^T weights.
template <int kDim>
__device__ void AddValues(WarpState<kDim>& state, const TileRows<kDim>& values,
                          const float (&weights)[4]) {
  const uint32_t b0 = Transposed(Narrow2(weights[0], weights[1]));
  const uint32_t b1 = Transposed(Narrow2(weights[2], weights[3]));
#pragma unroll
  for (uint32_t i = 0; i < kDim / 32; ++i) {
    const uint4& low = values.low[i];
    const uint4& high = values.high[i];
    MultiplyAdd(state.sums[2 * i],
                {Transposed(low.x), Transposed(low.y), Transposed(high.x), Transposed(high.y)}, b0,
                b1);
    MultiplyAdd(state.sums[2 * i + 1],
                {Transposed(low.z), Transposed(low.w), Transposed(high.z), Transposed(high.w)}, b0,
                b1);
  }
}

// What each warp found, for the block to merge.
template <int kDim>
struct Found {
  float sums[kWarps][kBlockHeads][kDim];
  float maximum[kWarps][kBlockHeads];
  float weight_sum[kWarps][kBlockHeads];
};

template <int kDim>
__device__ void Leave(const WarpState<kDim>& state, Found<kDim>& found) {
  const uint32_t warp = threadIdx.x / 32, row = threadIdx.x % 32 / 4, column = threadIdx.x % 4;
#pragma unroll
  for (uint32_t h = 0; h < 2; ++h) {
    const uint32_t head = 2 * column + h;
    float weight_sum = state.weight_sum[h];
#pragma unroll
    for (int step = 4; step < 32; step *= 2) {
      weight_sum += __shfl_xor_sync(0xffffffffu, weight_sum, step);
    }
    if (row == 0) {
      found.maximum[warp][head] = state.maximum[h];
      found.weight_sum[warp][head] = weight_sum;
    }
#pragma unroll
    for (uint32_t t = 0; t < kDim / 16; ++t) {
      const uint32_t value = t / 2 * 32 + row / 2 * 8 + t % 2 * 4 + row % 2;
      found.sums[warp][head][value] = state.sums[t][h];
      found.sums[warp][head][value + 2] = state.sums[t][h + 2];
    }
  }
}

// A block: one part of one sequence, for one KV head and up to 8 of its query heads. Warps take
// tiles of 16 positions in turn.
template <int kDim>
__global__ void __launch_bounds__(kWarps * 32) DecodeAttentionKernel(Args a) {
  const int32_t row = a.decode_rows[blockIdx.x];
  if (row < 0) return;
  const HeadShape& shape = a.shape;
  const uint32_t dim = shape.head_dim;
  const uint32_t group_heads = shape.heads / shape.kv_heads;
  const uint32_t chunks = (group_heads + kBlockHeads - 1) / kBlockHeads;
  const uint32_t kv_head = blockIdx.y / chunks;
  const uint32_t first_head = blockIdx.y % chunks * kBlockHeads;  // within the group
  const uint32_t length = static_cast<uint32_t>(a.places.positions[row]) + 1;
  const uint32_t begin = blockIdx.z * a.splits.tokens;
  if (begin >= length) return;
  const uint32_t end = min(begin + a.splits.tokens, length);

  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  WarpState<kDim> state = {};
  state.maximum[0] = state.maximum[1] = kNoScore;
  const uint32_t own_head = first_head + lane / 4;
  const Bf16* query = a.qkv + static_cast<size_t>(row) * shape.qkv_width() +
                      (size_t{kv_head} * group_heads + own_head) * dim;
#pragma unroll
  for (uint32_t i = 0; i < kDim / 32; ++i) {
    const uint32_t column = 32 * i + lane % 4 * 8;
    if (own_head < group_heads && column < dim) {
      state.query[i] = *reinterpret_cast<const uint4*>(query + column);
    }
  }

  const int32_t* pages =
      a.cache.page_table + static_cast<size_t>(a.places.slots[row]) * a.cache.pages_per_slot;
  const auto offset = [&](uint32_t at) {
    const auto page = static_cast<uint32_t>(pages[at / kPageTokens]);
    return ((size_t{page} * shape.kv_heads + kv_head) * kPageTokens + at % kPageTokens) * dim;
  };
  TileRows<kDim> keys, values;
  uint32_t at = begin + warp * kTile;
  if (at < end) {
    LoadTile(a.cache.keys + offset(at), end - at, dim, keys);
    LoadTile(a.cache.values + offset(at), end - at, dim, values);
  }
  // The next tile's keys are on their way as soon as these are used up, so are its values.
  while (at < end) {
    const uint32_t next = at + kWarps * kTile;
    const size_t next_offset = next < end ? offset(next) : 0;
    float scores[4] = {};
    Score(state, keys, scores);
    if (next < end) LoadTile(a.cache.keys + next_offset, end - next, dim, keys);
    Weigh(state, a.scale_log2, end - at, scores);
    AddValues(state, values, scores);
    if (next < end) LoadTile(a.cache.values + next_offset, end - next, dim, values);
    at = next;
  }

  __shared__ Found<kDim> found;
  Leave(state, found);
  __syncthreads();
  const bool whole = SplitsUsed(length, a.splits) == 1;
  for (uint32_t i = threadIdx.x; i < kBlockHeads * kDim; i += kWarps * 32) {
    const uint32_t h = i / kDim;
    const uint32_t d = i % kDim;
    if (first_head + h >= group_heads || d >= dim) continue;
    float maximum = kNoScore, weight_sum = 0, sum = 0;
#pragma unroll
    for (uint32_t w = 0; w < kWarps; ++w) {
      float mine = 0, others = 0;
      Merge(maximum, weight_sum, found.maximum[w][h], found.weight_sum[w][h], mine, others);
      sum = sum * mine + found.sums[w][h][d] * others;
    }
    const uint32_t head = kv_head * group_heads + first_head + h;
    if (whole) {
      a.out[(static_cast<size_t>(row) * shape.heads + head) * dim + d] =
          __float2bfloat16_rn(sum / weight_sum);
      continue;
    }
    float* partial =
        a.partials +
        ((size_t{blockIdx.x} * shape.heads + head) * a.splits.count + blockIdx.z) * (dim + 2);
    partial[d] = sum;
    if (d == 0) {
      partial[dim] = maximum;
      partial[dim + 1] = weight_sum;
    }
  }
}

// Merges the parts of one head of one row; a thread has one value. splits.count floats of shared
// memory.
__global__ void MergePartsKernel(Args a) {
  auto* factors = DynamicShared<float>();
  const int32_t row = a.decode_rows[blockIdx.x];
  if (row < 0) return;
  const uint32_t used = SplitsUsed(static_cast<uint32_t>(a.places.positions[row]) + 1, a.splits);
  const uint32_t dim = a.shape.head_dim;
  if (used == 1) return;
  const uint32_t head = blockIdx.y;
  const uint32_t stride = dim + 2;
  const float* partials =
      a.partials + (size_t{blockIdx.x} * a.shape.heads + head) * a.splits.count * stride;
  // Every warp for itself: the loads are few, and a barrier costs as much.
  float maximum = kNoScore;
  for (uint32_t s = threadIdx.x % 32; s < used; s += 32) {
    maximum = fmaxf(maximum, partials[s * stride + dim]);
  }
  for (int step = 16; step > 0; step /= 2) {
    maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, step));
  }
  float weight_sum = 0;
  for (uint32_t s = threadIdx.x % 32; s < used; s += 32) {
    const float factor = exp2f(partials[s * stride + dim] - maximum);
    if (threadIdx.x < 32) factors[s] = factor;
    weight_sum += factor * partials[s * stride + dim + 1];
  }
  for (int step = 16; step > 0; step /= 2) {
    weight_sum += __shfl_xor_sync(0xffffffffu, weight_sum, step);
  }
  __syncthreads();
  const uint32_t d = threadIdx.x;
  if (d >= dim) return;
  float sum = 0;
#pragma unroll 8
  for (uint32_t s = 0; s < used; ++s) sum += factors[s] * partials[s * stride + d];
  a.out[(static_cast<size_t>(row) * a.shape.heads + head) * dim + d] =
      __float2bfloat16_rn(sum / weight_sum);
}

template <int kDim>
cudaError_t LaunchFor(const Args& args, uint32_t decodes, cudaStream_t stream) {
  const uint32_t group_heads = args.shape.heads / args.shape.kv_heads;
  const uint32_t chunks = (group_heads + kBlockHeads - 1) / kBlockHeads;
  const dim3 grid(decodes, args.shape.kv_heads * chunks, args.splits.count);
  const cudaError_t error = Launch(DecodeAttentionKernel<kDim>, grid, kWarps * 32, stream, args);
  if (error != cudaSuccess || args.splits.count == 1) return error;
  return LaunchWithShared(MergePartsKernel, dim3(decodes, args.shape.heads), kDim,
                          args.splits.count * sizeof(float), stream, args);
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
