// Grouped-query attention over a KV cache of one place per sequence.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/kernels.h"
#include "model_worker/cpu/page_buffer.h"
#include "model_worker/model_config.h"

namespace engram {

// Where the tokens of one sequence's step lie in the step's flat arrays.
struct StepPart {
  uint32_t slot = 0;
  uint32_t position = 0;     // of the first token
  uint32_t token_begin = 0;  // in the flat arrays
  uint32_t token_count = 0;
};

// The attention of every decoder layer: q/k norm, RoPE, KV cache, softmax. One thread drives it.
class Attention {
 public:
  // ERRORS: kResourceExhausted (the KV cache).
  [[nodiscard]] static Result<Attention> Create(const ModelConfig& config,
                                                const Backend::Limits& limits, uint32_t threads);

  // One layer for all tokens of a step. Writes their keys and values into the cache.
  //   q_norm, k_norm  [head_dim]
  //   qkv   [tokens][(heads + 2 kv_heads) * head_dim]: q, k, v; q is overwritten
  //   out   [tokens][heads * head_dim]
  void Run(int32_t layer, const float* q_norm, const float* k_norm, std::span<const StepPart> parts,
           float* qkv, float* out, ComputePool* pool);

 private:
  // Some tokens of a part, for one KV head.
  struct Tile {
    uint32_t part, kv_head, token_begin, token_end;  // tokens counted within the part
  };
  Attention(const ModelConfig& config, const Backend::Limits& limits, uint32_t threads);

  void PlanTiles(std::span<const StepPart> parts);
  void StoreToken(int32_t layer, const StepPart& part, uint32_t token, const float* q_norm,
                  const float* k_norm, float* token_qkv, float* key_scratch);
  void AttendTile(int32_t layer, const StepPart& part, const Tile& tile, const float* qkv,
                  float* out, float* scores);
  // Start of a sequence's keys (values) in one layer, for one KV head.
  [[nodiscard]] uint64_t KeyOffset(int32_t layer, uint32_t slot, uint32_t kv_head) const;
  [[nodiscard]] uint64_t ValueOffset(int32_t layer, uint32_t slot, uint32_t kv_head) const;

  const Kernels* kernels_;
  int32_t head_count_, kv_head_count_, head_dim_;
  int32_t value_stride_;  // head_dim rounded up to 16; the rest stays zero
  uint32_t slots_;
  uint32_t positions_padded_;  // positions per slot, rounded up to 16
  float eps_;
  PageBuffer keys_;                   // [layer][slot][kv_head][position / 16][head_dim][16]
  PageBuffer values_;                 // [layer][slot][kv_head][position][value_stride]
  std::vector<float> cosine_, sine_;  // [position][head_dim / 2]
  std::vector<float> scratch_;        // [threads] scores, and one key
  size_t scratch_floats_;             // of one thread
  std::vector<Tile> tiles_;
};

}  // namespace engram
