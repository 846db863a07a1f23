#include "engram/checkpoint/checkpoint_rows.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "engram/base/check.h"

namespace engram {

Result<CheckpointRows> CheckpointRows::Open(const std::filesystem::path& model_dir,
                                            std::shared_ptr<const TableLayout> layout) {
  ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(model_dir));
  ENGRAM_ASSIGN_OR_RETURN(const auto tensors, FindTableTensors(index, *layout));
  CheckpointRows rows(std::move(layout));
  for (const TableTensors& table : tensors) {
    Layer layer;
    ENGRAM_ASSIGN_OR_RETURN(TensorReader weight, TensorReader::Open(table.weight));
    layer.weight = std::make_unique<TensorReader>(std::move(weight));
    if (table.scale.has_value()) {
      ENGRAM_ASSIGN_OR_RETURN(TensorReader scale, TensorReader::Open(*table.scale));
      layer.scale = std::make_unique<TensorReader>(std::move(scale));
    }
    rows.layers_.push_back(std::move(layer));
  }
  return rows;
}

Status CheckpointRows::Read(int32_t layer_index, RowId first, uint32_t count,
                            std::span<std::byte> rows) {
  const uint32_t row_bytes = layout_->row_bytes();
  ENGRAM_CHECK(first.value() + count <= layout_->row_count(layer_index));
  ENGRAM_CHECK(rows.size() == size_t{count} * row_bytes);
  Layer& layer = layers_[static_cast<size_t>(layer_index)];
  if (layer.scale == nullptr) return layer.weight->Read(first.value() * row_bytes, rows);

  const uint32_t weight_bytes = layout_->spec().row_values;
  const uint32_t scale_bytes = row_bytes - weight_bytes;
  part_.resize(size_t{count} * weight_bytes);
  ENGRAM_RETURN_IF_ERROR(layer.weight->Read(first.value() * weight_bytes, part_));
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(rows.data() + i * row_bytes, part_.data() + i * weight_bytes, weight_bytes);
  }
  part_.resize(size_t{count} * scale_bytes);
  ENGRAM_RETURN_IF_ERROR(layer.scale->Read(first.value() * scale_bytes, part_));
  for (size_t i = 0; i < count; ++i) {
    std::memcpy(rows.data() + i * row_bytes + weight_bytes, part_.data() + i * scale_bytes,
                scale_bytes);
  }
  return Status();
}

uint64_t CheckpointRows::total_bytes() const {
  uint64_t rows = 0;
  for (int32_t i = 0; i < layout_->layer_count(); ++i) rows += layout_->row_count(i);
  return rows * layout_->row_bytes();
}

Status CheckpointRows::ForEachPiece(const std::function<Status(const Piece& piece)>& read,
                                    const OnProgress& on_progress) const {
  const uint64_t total = total_bytes();
  uint64_t done = 0;
  for (int32_t layer = 0; layer < layout_->layer_count(); ++layer) {
    const uint64_t row_count = layout_->row_count(layer);
    for (uint64_t row = 0; row < row_count; row += kPieceRowsMax) {
      const auto count = static_cast<uint32_t>(std::min<uint64_t>(kPieceRowsMax, row_count - row));
      ENGRAM_RETURN_IF_ERROR(read({layer, RowId(row), count}));
      done += uint64_t{count} * layout_->row_bytes();
      if (on_progress) on_progress(done, total);
    }
  }
  return {};
}

}  // namespace engram
