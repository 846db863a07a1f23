// A Hugging Face folder: what an Engram model's config.json says about its tables.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/table/table_layout.h"

namespace engram {

// The Engram part of config.json, either layout: DeepSeek-V4.1 keys (`engram_layer_ids`, ... at top
// level or in `text_config`), or the public demo's field names in an `engram_config` object.
struct EngramConfig {
  Variant variant = Variant::kV41;
  std::vector<int32_t> layer_ids;
  int32_t max_ngram_size = 0;
  int32_t head_count = 0;
  std::vector<int64_t> base_sizes;                 // [max_ngram_size - 1]
  uint32_t row_values = 0;                         // v41: engram_head_dim; demo: per-ngram / heads
  int64_t pad_token_id = 2;                        // before compression
  uint64_t seed = 0;
  std::optional<int64_t> compressed_vocab_size;    // v41: required; demo: optional
  std::vector<int64_t> row_counts;                 // [layers] engram_num_embeddings; empty = not said
  int32_t demo_kernel_size = 4;                    // demo's short convolution
};

// ERRORS: kNotFound (no file), kMalformed (not JSON, a key missing, of the wrong type or out of
// range) naming file, key, expected and found. kNotFound "has no Engram keys" for a plain model.
[[nodiscard]] Result<EngramConfig> ReadEngramConfig(const std::filesystem::path& model_dir);

// Tensor names (ENGRAM section 7): "layers.{L}.engram.embed.weight" and ".scale" for v41,
// "layers.{L}.engram.multi_head_embedding.embedding.weight" for demo; an index may prefix them with
// "model.".
struct TableTensor {
  int32_t layer_id = 0;
  std::string weight_name;
  std::string scale_name;  // empty unless kF8E4M3ScaleE8M0
};

// What the tables of a model folder are, checked against each other without reading a row.
struct ModelTables {
  EngramConfig config;
  TableSpec spec;
  std::vector<int32_t> compression;   // [vocabulary] token id -> compressed id
  ModelIdentity identity{};
};

// Reads config.json and tokenizer.json, computes V and the layout, and refuses what does not agree:
// V, row counts. `row_format` comes from the tensors where `tensors_wanted`, else from the variant
// (v41: F8_E4M3; demo: F32), so that `engramctl hash` needs no tensors.
// ERRORS: kWrongModel "config.json says engram_compressed_vocab_size = X, tokenizer.json gives Y",
// and those of the readers.
[[nodiscard]] Result<ModelTables> ReadModelTables(const std::filesystem::path& model_dir,
                                                  bool tensors_wanted);

}  // namespace engram
