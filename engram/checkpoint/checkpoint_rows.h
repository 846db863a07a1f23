// Rows of a checkpoint's tables, weights and scales interleaved as memory nodes store them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
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
  // Rows that are read at once.
  struct Piece {
    int32_t layer_index = 0;
    RowId first;
    uint32_t count = 0;
  };
  static constexpr uint32_t kPieceRowsMax = 16384;
  // Bytes done of all; called now and then on the thread that reads.
  using OnProgress = std::function<void(uint64_t bytes_done, uint64_t bytes_total)>;

  // Opens the table tensors of every layer. `layout` is kept.
  // ERRORS: those of TensorIndex::Open, FindTableTensors and TensorReader::Open.
  [[nodiscard]] static Result<CheckpointRows> Open(const std::filesystem::path& model_dir,
                                                   std::shared_ptr<const TableLayout> layout);

  // Reads `count` rows from `first`, weights and scales interleaved.
  //   rows  [count][row_bytes] written
  // Precondition: the rows are in the layer's table. ERRORS: kIo, kMalformed (truncated).
  [[nodiscard]] Status Read(int32_t layer_index, RowId first, uint32_t count,
                            std::span<std::byte> rows);

  // Calls read(piece) for every row of every table, in order, until it fails. `on_progress` may be
  // empty.
  [[nodiscard]] Status ForEachPiece(const std::function<Status(const Piece& piece)>& read,
                                    const OnProgress& on_progress) const;

  [[nodiscard]] const TableLayout& layout() const { return *layout_; }
  // Of all tables, without CRCs.
  [[nodiscard]] uint64_t total_bytes() const;

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
