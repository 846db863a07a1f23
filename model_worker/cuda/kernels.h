// The kernels. All launches are asynchronous on `stream` and allocate nothing, so they may be
// captured. A launch that was refused is what they return; what a kernel does wrong shows later.
//
// Shapes: rows are a step's tokens and padding; padding has slot -1 and is skipped or written as
// zeros. Activations are bf16, the residual stream, norms and sums are fp32: the stream adds up
// twice a layer, and in bf16 each addition would round to 8 bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "engram/table/table_layout.h"
#include "model_worker/cuda/crc_factors.h"
#include "model_worker/cuda/device_draw.h"
#include "model_worker/cuda/launch_shape.h"

namespace engram::gpu {

using Bf16 = __nv_bfloat16;

// -- elementwise.cu

// out[i] = bf16(x[i]), round to nearest even.
[[nodiscard]] cudaError_t LaunchToBf16(const float* x, size_t count, Bf16* out,
                                       cudaStream_t stream);
// page_table[indices[i]] = values[i], where indices[i] >= 0.
[[nodiscard]] cudaError_t LaunchSetPages(const int32_t* indices, const int32_t* values,
                                         uint32_t count, int32_t* page_table, cudaStream_t stream);
// hidden [rows][width] = table[tokens[row]], zeros where tokens[row] < 0. width is a multiple of 8.
[[nodiscard]] cudaError_t LaunchEmbed(const int32_t* tokens, const Bf16* table, uint32_t rows,
                                      uint32_t width, float* hidden, cudaStream_t stream);
// out [rows][width] = bf16(RMSNorm(x[row]) * weight). `picked` [rows] (may be null): row i of `out`
// is of x[picked[i]], zeros where that is < 0. width is a multiple of 8.
[[nodiscard]] cudaError_t LaunchRmsNorm(const float* x, const float* weight, float eps,
                                        const int32_t* picked, uint32_t rows, uint32_t width,
                                        Bf16* out, cudaStream_t stream);
// out [rows][width] = silu(gate) * up; gate_up [rows][2 * width]: gate, then up.
[[nodiscard]] cudaError_t LaunchSwiGlu(const Bf16* gate_up, uint32_t rows, uint32_t width,
                                       Bf16* out, cudaStream_t stream);

// -- attention: prepare_attention.cu, decode_attention.cu, prefill_attention.cu

// One layer's part of the paged KV cache, and the page table that all layers share.
struct KvCache {
  Bf16* keys = nullptr;                 // [pages][kv_heads][kPageTokens][head_dim]
  Bf16* values = nullptr;               // the same
  const int32_t* page_table = nullptr;  // [slots][pages_per_slot]
  uint32_t pages_per_slot = 0;
};
// head_dim: a multiple of 8, at most 128; heads a multiple of kv_heads.
struct HeadShape {
  uint32_t heads = 0;
  uint32_t kv_heads = 0;
  uint32_t head_dim = 0;
  [[nodiscard]] constexpr uint32_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim; }
};
// Where each row of a step stands.
struct RowPlaces {
  const int32_t* slots = nullptr;      // [rows]; -1 = padding
  const int32_t* positions = nullptr;  // [rows]
};

// Normalises and turns q and k, writes q back and k and v into the cache.
//   qkv     [rows][qkv_width]: q heads, k heads, v heads
//   cosine, sine  [positions][head_dim / 2]
[[nodiscard]] cudaError_t LaunchPrepareAttention(const HeadShape& shape, const RowPlaces& places,
                                                 uint32_t rows, const float* q_norm,
                                                 const float* k_norm, float eps,
                                                 const float* cosine, const float* sine,
                                                 const KvCache& cache, Bf16* qkv,
                                                 cudaStream_t stream);

// Attention of rows that are alone in their sequence's step, over all positions up to their own.
//   decode_rows [decodes]; -1 = padding
//   partials    at least decodes * splits.count * heads * (head_dim + 2) floats
//   out         [rows][heads * head_dim]; other rows are left alone
[[nodiscard]] cudaError_t LaunchDecodeAttention(const HeadShape& shape, const RowPlaces& places,
                                                const int32_t* decode_rows, uint32_t decodes,
                                                const DecodeSplits& splits, const KvCache& cache,
                                                const Bf16* qkv, float* partials, Bf16* out,
                                                cudaStream_t stream);

// Causal attention of tiles of rows that follow each other in one sequence.
//   tile_rows, tile_lengths [tiles]: first row, rows (1 to 64)
[[nodiscard]] cudaError_t LaunchPrefillAttention(const HeadShape& shape, const RowPlaces& places,
                                                 const int32_t* tile_rows,
                                                 const int32_t* tile_lengths, uint32_t tiles,
                                                 const KvCache& cache, const Bf16* qkv, Bf16* out,
                                                 cudaStream_t stream);

// -- sampling.cu

// tokens[row] = the one drawn from logits[row * stride ...][vocabulary] by draws[row]; -1 where no
// logit is finite.
[[nodiscard]] cudaError_t LaunchSample(const float* logits, uint32_t stride, uint32_t vocabulary,
                                       const DeviceDraw* draws, uint32_t rows, int32_t* tokens,
                                       cudaStream_t stream);

// -- engram_rows.cu, landed_rows.cu, engram_fusion.cu

// Decodes rows as row_codec.h does (exactly its numbers; fp32 and fp16 tables are rounded to bf16).
//   staged    [tokens][columns][RowBytes(format, row_values)]; with ids: the whole table, [rows of
//             the table][RowBytes(...)]
//   ids       [tokens][columns] row ids, or null. Precondition: they are in the table, but those of
//             dead tokens, which are not looked at
//   dead      [tokens], or null: none
//   values    [rows][columns * row_values] written; zeros for dead tokens and padding
//   dead_out  [rows] written: 1 for dead tokens and padding
struct StagedRows {
  const std::byte* staged = nullptr;
  const uint8_t* dead = nullptr;
  uint32_t tokens = 0;
  uint32_t columns = 0;
  uint32_t row_values = 0;
  RowFormat format = RowFormat::kF8E4M3ScaleE8M0;
  const uint32_t* ids = nullptr;
};
[[nodiscard]] cudaError_t LaunchDecodeRows(const StagedRows& rows, uint32_t row_count, Bf16* values,
                                           uint8_t* dead_out, cudaStream_t stream);

// Checks stored rows (docs/formats/stored_row.md) and keeps the right ones.
struct LandingRow {
  uint32_t crc_of_place = 0;  // of what the CRC covers before the row's bytes
  uint32_t from = 0;          // in stored
  uint32_t place = 0;         // in table
};
//   stored  [..][row_bytes + 4], on the device or pinned
//   rows    [count], pinned or on the device
//   table   [places][row_bytes]; those of right rows are written
//   right   [count] written: 1 = its CRC is right, else 0
[[nodiscard]] cudaError_t LaunchKeepRows(const std::byte* stored, const CrcParts& parts,
                                         const LandingRow* rows, uint32_t count, std::byte* table,
                                         uint8_t* right, cudaStream_t stream);

// v41, one branch (fusion.h): hidden += gate * value, where dead is 0.
//   keys_value  [rows][2 * width]: key, value
//   query_key   [width]: query norm * key norm
[[nodiscard]] cudaError_t LaunchFuseV41(const Bf16* keys_value, const float* query_key,
                                        const uint8_t* dead, float eps, uint32_t rows,
                                        uint32_t width, float* hidden, cudaStream_t stream);

// demo, one branch (fusion.h).
struct DemoFusion {
  const float* bias = nullptr;       // [2 * width]: of key, of value
  const float* query_key = nullptr;  // [width]: query norm * key norm
  const float* conv_norm = nullptr;  // [width]
  const float* conv = nullptr;       // [width][kernel]
  uint32_t width = 0;
  uint32_t kernel = 0;
  uint32_t dilation = 0;
  [[nodiscard]] constexpr uint32_t history_rows() const { return (kernel - 1) * dilation; }
};
struct DemoParts {
  const int32_t* row_parts = nullptr;     // [rows]; -1 = padding
  const int32_t* part_slots = nullptr;    // [parts]; -1 = padding
  const int32_t* part_begins = nullptr;   // [parts]
  const int32_t* part_lengths = nullptr;  // [parts]
};
// gated [rows][width] = gate * value; normed [rows][width] = what the convolution sees of it.
[[nodiscard]] cudaError_t LaunchGateDemo(const DemoFusion& fusion, const Bf16* keys_value,
                                         const float* hidden, uint32_t rows, float* gated,
                                         float* normed, cudaStream_t stream);
// hidden += gated + silu(convolution), then keeps what the next tokens need.
//   history  [slots][history_rows][width], oldest first. What stands before a sequence's position 0
//            counts as zero, so that a slot needs no clearing.
[[nodiscard]] cudaError_t LaunchConvolveDemo(const DemoFusion& fusion, const DemoParts& parts,
                                             const RowPlaces& places, uint32_t rows,
                                             uint32_t part_count, const float* gated,
                                             const float* normed, float* history, float* hidden,
                                             cudaStream_t stream);

}  // namespace engram::gpu
