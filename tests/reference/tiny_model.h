// A small random Engram model on disk, and its rows straight from its own tables. For tests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/checkpoint/safetensors.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"
#include "model_worker/backend.h"

namespace engram::test {

struct TinyModelShape {
  std::optional<Variant> variant = Variant::kV41;  // none: a plain Qwen3
  int32_t hidden_size = 64;
  int32_t intermediate_size = 100;
  int32_t layer_count = 4;
  int32_t head_count = 4;
  int32_t kv_head_count = 2;
  int32_t head_dim = 24;
  int32_t vocabulary_size = 600;
  int32_t compressed_size = 211;
  bool tied = true;
  Dtype dtype = Dtype::kF32;  // of all but the tables
  Dtype demo_table_dtype = Dtype::kF32;
  std::vector<int32_t> engram_layers = {1, 3};
  int32_t max_ngram_size = 3;
  int32_t engram_heads = 2;
  int32_t row_values = 32;
  int64_t base_size = 401;
  int32_t branch_count = 1;
  std::string name_prefix;  // "model." as Hugging Face writes it, or nothing
  uint32_t seed = 1;
};

struct TinyTensor {
  TensorToWrite info;
  std::vector<std::byte> bytes;
};

// Writes config.json, model.safetensors and compression.json.
class TinyModel {
 public:
  // Aborts the test program where the folder cannot be written.
  [[nodiscard]] static TinyModel Write(const TinyModelShape& shape,
                                       const std::filesystem::path& dir);

  [[nodiscard]] const std::filesystem::path& dir() const { return dir_; }
  [[nodiscard]] const TinyModelShape& shape() const { return shape_; }
  // Precondition: the shape has a variant.
  [[nodiscard]] const NgramHasher& hasher() const { return *hasher_; }

  // Of its tables. The same precondition.
  [[nodiscard]] std::shared_ptr<const TableLayout> layout() const { return layout_; }

  // [tokens][columns] of one Engram layer; dead positions' are outside of any table.
  [[nodiscard]] std::vector<uint32_t> RowIds(int32_t layer_index,
                                             std::span<const TokenRun> runs) const;
  // [tokens][columns][row_bytes] of one Engram layer, as a row source would give them.
  [[nodiscard]] std::vector<std::byte> Rows(int32_t layer_index,
                                            std::span<const TokenRun> runs) const;

 private:
  TinyModelShape shape_;
  std::filesystem::path dir_;
  std::optional<NgramHasher> hasher_;
  std::shared_ptr<const TableLayout> layout_;
  size_t row_bytes_ = 0;
  std::vector<std::vector<std::byte>> tables_;  // [layers] rows as stored
};

// The rows of one step, or their ids, computed when the layer asks; counts who asked.
class TinyRows final : public EngramRows {
 public:
  TinyRows(const TinyModel& model, std::span<const TokenRun> runs, bool only_ids = false);
  [[nodiscard]] Result<std::span<const LayerRows>> Rows(int32_t layer_index) override;
  [[nodiscard]] const std::vector<int32_t>& asked() const { return asked_; }

 private:
  const TinyModel& model_;
  const bool only_ids_;
  std::vector<TokenRun> runs_;
  std::vector<uint8_t> dead_;
  std::vector<std::vector<std::byte>> kept_;
  LayerRows rows_;
  std::vector<int32_t> asked_;
};

}  // namespace engram::test
