// A Qwen3-family model's config.json, with its Engram part where it has one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {

// What Hugging Face's Qwen3ForCausalLM reads, less what only training uses. Every bound was
// checked.
struct ModelConfig {
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t layer_count = 0;    // num_hidden_layers
  int32_t head_count = 0;     // num_attention_heads
  int32_t kv_head_count = 0;  // num_key_value_heads; divides head_count
  int32_t head_dim = 0;       // even
  float rms_norm_eps = 1e-6f;
  double rope_theta = 1e6;
  int32_t vocabulary_size = 0;
  int32_t positions_max = 0;  // max_position_embeddings
  bool tie_word_embeddings = false;
  std::vector<TokenId> eos_token_ids;  // none, one or several
  std::optional<EngramConfig> engram;  // none: a plain model

  // Values of one token's rows of one Engram layer: columns * row_values; 0 without Engram.
  [[nodiscard]] int32_t engram_values() const;
  [[nodiscard]] int32_t engram_columns() const;
};

// Reads `model_dir`/config.json. The model's keys are taken from `text_config` where that has
// them, else from the top level.
// ERRORS: kNotFound (no file); kMalformed (not JSON, a key missing, of the wrong type or out of
// range); kInvalidArgument (a feature this worker does not have, such as rope_scaling). Each names
// file, key, expected and found.
[[nodiscard]] Result<ModelConfig> ReadModelConfig(const std::filesystem::path& model_dir);

// The same from text, without the Engram part. `file` is for messages. For tests and fuzzers.
[[nodiscard]] Result<ModelConfig> ParseModelConfig(std::string_view json,
                                                   const std::filesystem::path& file);

}  // namespace engram
