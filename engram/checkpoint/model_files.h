// A Hugging Face folder: what an Engram model's config.json says about its tables.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"

namespace engram {

// The Engram part of config.json, either layout: DeepSeek-V4.1 keys (`engram_layer_ids`, ... at top
// level or in `text_config`), or the public demo's field names in an `engram_config` object.
struct EngramConfig {
  Variant variant = Variant::kV41;
  std::vector<int32_t> layer_ids;
  int32_t max_ngram_size = 0;
  int32_t head_count = 0;
  std::vector<int64_t> base_sizes;  // [max_ngram_size - 1]
  uint32_t row_values = 0;          // v41: engram_head_dim; demo: per-ngram / heads
  int64_t pad_token_id = 2;         // before compression
  uint64_t seed = 0;
  std::optional<int64_t> compressed_vocab_size;  // v41: required; demo: optional
  std::vector<int64_t> row_counts;               // [layers] engram_num_embeddings; empty = not said
  int32_t demo_kernel_size = 4;                  // demo's short convolution
};

// ERRORS: kNotFound (no file), kMalformed (not JSON, a key missing, of the wrong type or out of
// range) naming file, key, expected and found. kNotFound "has no Engram keys" for a plain model.
[[nodiscard]] Result<EngramConfig> ReadEngramConfig(const std::filesystem::path& model_dir);
// The same of a config.json's text; `name` is for messages. For ReadEngramConfig and the fuzzer.
[[nodiscard]] Result<EngramConfig> ParseEngramConfig(std::string_view config_json,
                                                     std::string_view name);

// What fixes the row ids, once V and the pad token's compressed id are known.
[[nodiscard]] HashSpec MakeHashSpec(const EngramConfig& config, int64_t compressed_vocab_size,
                                    int64_t compressed_pad_id);

// The tensors of one layer's table.
struct TableTensors {
  int32_t layer_id = 0;
  TensorInfo weight;                // [rows, row_values]
  std::optional<TensorInfo> scale;  // [rows, row_values / 32]; kF8E4M3ScaleE8M0 only
};

// Names without the "model." prefix that an index may put before them (ENGRAM section 7).
[[nodiscard]] std::string TableWeightName(Variant variant, int32_t layer_id);
[[nodiscard]] std::string TableScaleName(int32_t layer_id);

// The tables of every layer [layers], with the dtype and shape that `layout` says.
// ERRORS: kNotFound (no such tensor), kMalformed (another dtype or width), kWrongModel (another
// number of rows), naming file, tensor, expected and found.
[[nodiscard]] Result<std::vector<TableTensors>> FindTableTensors(const TensorIndex& index,
                                                                 const TableLayout& layout);

// What the tables of a model folder are, checked against each other without reading a row.
struct ModelTables {
  EngramConfig config;
  TableSpec spec;
  std::vector<int32_t> compression;  // [vocabulary] token id -> compressed id
  ModelIdentity identity{};
};

// Reads config.json and tokenizer.json, computes V and the layout, and refuses what does not agree:
// V, row counts. `row_format` comes from the tensors where `tensors_wanted`, else from the variant
// (v41: F8_E4M3; demo: F32), so that `engramctl hash` needs no tensors.
// (The model identity covers the row format: compare identities of the same kind only.)
// The vocabulary is the tokenizer's; config.json may say a larger, padded vocab_size.
// ERRORS: kWrongModel "config.json says engram_compressed_vocab_size = X, tokenizer.json gives Y",
// or other row counts; those of the readers and of FindTableTensors.
[[nodiscard]] Result<ModelTables> ReadModelTables(const std::filesystem::path& model_dir,
                                                  bool tensors_wanted);

}  // namespace engram
