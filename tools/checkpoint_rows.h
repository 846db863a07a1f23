// Rows of a checkpoint as a memory node stores them, for comparison.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/checkpoint/safetensors.h"
#include "engram/table/table_layout.h"

namespace engram {

// Thread-compatible.
class CheckpointRows {
 public:
  // Opens the table tensors of every layer. `layout` is kept.
  // ERRORS: those of TensorIndex::Open, FindTableTensors and TensorReader::Open.
  [[nodiscard]] static Result<CheckpointRows> Open(const std::filesystem::path& model_dir,
                                                   std::shared_ptr<const TableLayout> layout);

  // Reads `count` rows from `first`, weights and scales interleaved.
  //   rows  [count][row_bytes] written
  // Precondition: the rows are in the layer's table. ERRORS: kIo, kMalformed (truncated).
  [[nodiscard]] Status Read(int32_t layer_index, RowId first, uint32_t count,
                            std::span<std::byte> rows);

 private:
  struct Layer {
    std::unique_ptr<TensorReader> weight;
    std::unique_ptr<TensorReader> scale;  // null where rows have no scales
  };
  explicit CheckpointRows(std::shared_ptr<const TableLayout> layout) : layout_(std::move(layout)) {}

  std::shared_ptr<const TableLayout> layout_;
  std::vector<Layer> layers_;
  std::vector<std::byte> part_;  // scratch
};

}  // namespace engram
