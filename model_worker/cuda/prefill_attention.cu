// Causal attention of many tokens of a sequence over the paged KV cache, on tensor cores
// (mma.m16n8k16, from sm_80 on), with a running softmax as in FlashAttention-2: a block takes 64
// query tokens of one head and walks the pages, the next one being copied while it computes.
#include "model_worker/cuda/bf16_vector.cuh"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/launch.cuh"
#include "model_worker/cuda/mma.cuh"
#include "model_worker/cuda/step_inputs.h"

namespace engram::gpu {
namespace {

constexpr uint32_t kWarps = 4;
constexpr uint32_t kThreads = kWarps * 32;
constexpr uint32_t kWarpRows = 16;  // query tokens of a warp
// As many as their tiles leave room for on a multiprocessor: one waits for a page, others compute.
constexpr uint32_t kBlocksPerMultiprocessor = 3;
static_assert(kTileTokens == kWarps * kWarpRows);
constexpr float kNoScore = -1e30f;

struct Args {
  HeadShape shape;
  RowPlaces places;
  KvCache cache;
  const int32_t* tile_rows;
  const int32_t* tile_lengths;
  const Bf16* qkv;
  float scale_log2;  // 1 / sqrt(head_dim) * log2(e)
  Bf16* out;
};

// Rows of 8 more values than needed: ldmatrix then meets each bank once.
template <int kDim>
constexpr uint32_t kStride = kDim + 8;

template <int kDim>
constexpr size_t kSharedBytes = size_t{4 * kPageTokens} * kStride<kDim> * sizeof(Bf16);

// Copies 64 rows of head_dim values, zeros past `real_rows` and past head_dim: a masked weight is
// 0, and 0 times whatever memory holds might be NaN.
template <int kDim>
__device__ void CopyTile(Bf16* tile, const Bf16* from, size_t from_stride, uint32_t real_rows,
                         uint32_t dim) {
  constexpr uint32_t kChunks = kDim / 8;
#pragma unroll
  for (uint32_t i = 0; i < 64 * kChunks / kThreads; ++i) {
    const uint32_t chunk = i * kThreads + threadIdx.x;
    const uint32_t row = chunk / kChunks;
    const uint32_t column = chunk % kChunks * 8;
    const bool real = row < real_rows && column < dim;
    CopyAsync(tile + row * kStride<kDim> + column, real ? from + row * from_stride + column : from,
              real);
  }
}

template <int kDim>
__device__ void CopyPage(const Args& a, const int32_t* pages, uint32_t page_place, uint32_t kv_head,
                         uint32_t kv_end, Bf16* keys, Bf16* values) {
  const auto page = static_cast<uint32_t>(pages[page_place]);
  const size_t offset =
      (size_t{page} * a.shape.kv_heads + kv_head) * kPageTokens * a.shape.head_dim;
  const uint32_t real = min(kv_end - page_place * kPageTokens, kPageTokens);
  CopyTile<kDim>(keys, a.cache.keys + offset, a.shape.head_dim, real, a.shape.head_dim);
  CopyTile<kDim>(values, a.cache.values + offset, a.shape.head_dim, real, a.shape.head_dim);
}

// What one warp carries from page to page: 16 query tokens. A thread has two of their rows,
// lane / 4 and 8 more.
template <int kDim>
struct WarpState {
  uint32_t query[kDim / 16][4];
  float out[kDim / 8][4];
  float maximum[2];
  float weight_sum[2];
};

// scores [8 tiles of 8 positions] = q k^T of one page.
template <int kDim>
__device__ void Score(const WarpState<kDim>& state, const Bf16* keys, float (&scores)[8][4]) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane / 16 * 8 + lane % 8;
  const uint32_t column = lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int i = 0; i < 4; ++i) scores[n][i] = 0;
  }
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      uint32_t b[4];
      LoadMatrices(b, keys + (n * 8 + row) * kStride<kDim> + k * 16 + column);
      MultiplyAdd(scores[n], state.query[k], b[0], b[1]);
      MultiplyAdd(scores[n + 1], state.query[k], b[2], b[3]);
    }
  }
}

// Scores -> weights, with the running maximum; masks positions past a row's own.
template <int kDim>
__device__ void Weigh(WarpState<kDim>& state, float scale_log2, uint32_t first_position,
                      uint32_t row_position, float (&scores)[8][4]) {
  const uint32_t lane = threadIdx.x % 32;
  const bool masked = first_position + kPageTokens - 1 > row_position;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint32_t own = row_position + lane / 4 + 8 * half;
    float top = state.maximum[half];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[n][2 * half + j];
        score *= scale_log2;
        if (masked && first_position + n * 8 + lane % 4 * 2 + j > own) score = kNoScore;
        top = fmaxf(top, score);
      }
    }
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    const float factor = exp2f(state.maximum[half] - top);
    state.maximum[half] = top;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < 8; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = scores[n][2 * half + j];
        score = score == kNoScore ? 0.0f : exp2f(score - top);
        sum += score;
      }
    }
    state.weight_sum[half] = state.weight_sum[half] * factor + sum;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      state.out[d][2 * half] *= factor;
      state.out[d][2 * half + 1] *= factor;
    }
  }
}

template <int kDim>
__device__ void AddValues(WarpState<kDim>& state, const float (&weights)[8][4],
                          const Bf16* values) {
  const uint32_t lane = threadIdx.x % 32;
  const uint32_t row = lane / 8 % 2 * 8 + lane % 8;
  const uint32_t column = lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const float(&low)[4] = weights[2 * k];
    const float(&high)[4] = weights[2 * k + 1];
    const uint32_t a[4] = {Narrow2(low[0], low[1]), Narrow2(low[2], low[3]),
                           Narrow2(high[0], high[1]), Narrow2(high[2], high[3])};
#pragma unroll
    for (int d = 0; d < kDim / 8; d += 2) {
      uint32_t b[4];
      LoadMatricesTransposed(b, values + (k * 16 + row) * kStride<kDim> + d * 8 + column);
      MultiplyAdd(state.out[d], a, b[0], b[1]);
      MultiplyAdd(state.out[d + 1], a, b[2], b[3]);
    }
  }
}

template <int kDim>
__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    PrefillAttentionKernel(Args a) {
  constexpr uint32_t kPageValues = kPageTokens * kStride<kDim>;
  Bf16* key_tiles = DynamicShared<Bf16>();
  Bf16* value_tiles = key_tiles + 2 * kPageValues;
  // Goes to registers before the second page comes there.
  Bf16* query_tile = key_tiles + kPageValues;
  static_assert(kTileTokens == kPageTokens);

  const HeadShape& shape = a.shape;
  const uint32_t head = blockIdx.x;
  const uint32_t kv_head = head / (shape.heads / shape.kv_heads);
  // The last tile of a sequence has the most pages to walk: it begins first.
  const uint32_t tile = gridDim.y - 1 - blockIdx.y;
  const auto first_row = static_cast<size_t>(a.tile_rows[tile]);
  const auto length = static_cast<uint32_t>(a.tile_lengths[tile]);
  const auto position = static_cast<uint32_t>(a.places.positions[first_row]);
  const uint32_t kv_end = position + length;
  const uint32_t page_count = (kv_end + kPageTokens - 1) / kPageTokens;
  const int32_t* pages =
      a.cache.page_table + static_cast<size_t>(a.places.slots[first_row]) * a.cache.pages_per_slot;

  CopyTile<kDim>(query_tile, a.qkv + first_row * shape.qkv_width() + size_t{head} * shape.head_dim,
                 shape.qkv_width(), length, shape.head_dim);
  CopyPage<kDim>(a, pages, 0, kv_head, kv_end, key_tiles, value_tiles);
  CommitCopies();

  const uint32_t warp = threadIdx.x / 32;
  const uint32_t lane = threadIdx.x % 32;
  WarpState<kDim> state;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    state.maximum[half] = kNoScore;
    state.weight_sum[half] = 0;
  }
#pragma unroll
  for (int d = 0; d < kDim / 8; ++d) {
#pragma unroll
    for (int i = 0; i < 4; ++i) state.out[d][i] = 0;
  }

  for (uint32_t p = 0; p < page_count; ++p) {
    WaitCopies<0>();
    // The page is there for everybody, and nobody reads the buffer that is filled next.
    __syncthreads();
    if (p == 0) {
#pragma unroll
      for (int k = 0; k < kDim / 16; ++k) {
        LoadMatrices(state.query[k], query_tile + (warp * kWarpRows + lane % 16) * kStride<kDim> +
                                         k * 16 + lane / 16 * 8);
      }
      __syncthreads();
    }
    if (p + 1 < page_count) {
      const uint32_t buffer = (p + 1) % 2;
      CopyPage<kDim>(a, pages, p + 1, kv_head, kv_end, key_tiles + buffer * kPageValues,
                     value_tiles + buffer * kPageValues);
      CommitCopies();
    }
    float scores[8][4];
    Score<kDim>(state, key_tiles + p % 2 * kPageValues, scores);
    Weigh<kDim>(state, a.scale_log2, p * kPageTokens, position + warp * kWarpRows, scores);
    AddValues<kDim>(state, scores, value_tiles + p % 2 * kPageValues);
  }

#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = state.weight_sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const uint32_t row = warp * kWarpRows + lane / 4 + 8 * half;
    if (row >= length) continue;
    Bf16* out = a.out + ((first_row + row) * shape.heads + head) * shape.head_dim;
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) {
      const uint32_t column = d * 8 + lane % 4 * 2;
      if (column >= shape.head_dim) continue;
      *reinterpret_cast<uint32_t*>(out + column) =
          Narrow2(state.out[d][2 * half] / sum, state.out[d][2 * half + 1] / sum);
    }
  }
}

template <int kDim>
cudaError_t LaunchFor(const Args& args, uint32_t tiles, cudaStream_t stream) {
  // More shared memory than a kernel gets unasked; asked for each time, since the setting belongs
  // to the current device.
  const cudaError_t error = cudaFuncSetAttribute(PrefillAttentionKernel<kDim>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                 static_cast<int>(kSharedBytes<kDim>));
  if (error != cudaSuccess) return error;
  return LaunchWithShared(PrefillAttentionKernel<kDim>, dim3(args.shape.heads, tiles), kThreads,
                          kSharedBytes<kDim>, stream, args);
}

}  // namespace

cudaError_t LaunchPrefillAttention(const HeadShape& shape, const RowPlaces& places,
                                   const int32_t* tile_rows, const int32_t* tile_lengths,
                                   uint32_t tiles, const KvCache& cache, const Bf16* qkv, Bf16* out,
                                   cudaStream_t stream) {
  if (tiles == 0) return cudaSuccess;
  constexpr float kLog2E = 1.44269504088896341f;
  const float scale = kLog2E / sqrtf(static_cast<float>(shape.head_dim));
  const Args args{shape, places, cache, tile_rows, tile_lengths, qkv, scale, out};
  switch (PaddedHeadDim(shape.head_dim)) {
    case 32:
      return LaunchFor<32>(args, tiles, stream);
    case 64:
      return LaunchFor<64>(args, tiles, stream);
    case 128:
      return LaunchFor<128>(args, tiles, stream);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace engram::gpu
