#include "model_worker/cuda/device_tables.h"

#include <utility>

#include "model_worker/cuda/table_fit.h"

namespace engram::gpu {

Result<std::unique_ptr<DeviceTables>> DeviceTables::Load(
    CheckpointRows* checkpoint, const CheckpointRows::OnProgress& on_progress) {
  size_t free_bytes = 0;
  size_t all_bytes = 0;
  ENGRAM_TRY(CudaStatus(cudaMemGetInfo(&free_bytes, &all_bytes), "asking what memory is free"));
  ENGRAM_TRY(CheckTablesFit(checkpoint->total_bytes(), free_bytes));
  const TableLayout& layout = checkpoint->layout();
  const size_t row_bytes = layout.row_bytes();
  std::unique_ptr<DeviceTables> made(new DeviceTables());
  for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
    ENGRAM_ASSIGN_OR_RETURN(
        auto table, DeviceArray<std::byte>::Create(layout.row_count(layer) * row_bytes, "a table"));
    made->tables_.push_back(std::move(table));
  }
  ENGRAM_ASSIGN_OR_RETURN(auto pinned,
                          PinnedArray<std::byte>::Create(CheckpointRows::kPieceRowsMax * row_bytes,
                                                         "a piece of a table"));
  const auto read = [&](const CheckpointRows::Piece& piece) -> Status {
    const size_t bytes = size_t{piece.count} * row_bytes;
    ENGRAM_RETURN_IF_ERROR(
        checkpoint->Read(piece.layer_index, piece.first, piece.count, {pinned.data(), bytes}));
    std::byte* table = made->tables_[static_cast<size_t>(piece.layer_index)].data();
    // Short beside the read before it: not worth a second buffer.
    return CudaStatus(cudaMemcpy(table + piece.first.value() * row_bytes, pinned.data(), bytes,
                                 cudaMemcpyHostToDevice),
                      "copying a table");
  };
  ENGRAM_TRY(checkpoint->ForEachPiece(read, on_progress));
  return made;
}

}  // namespace engram::gpu
