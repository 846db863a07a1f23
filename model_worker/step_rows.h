// The Engram rows of one step, out of the tickets that read them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "model_worker/backend.h"
#include "model_worker/scheduler.h"

namespace engram {

// Awaits each ticket at the consuming layer and not before. Rows are handed through without a copy,
// those that follow each other in one ticket in one piece. Keeps its memory between steps.
// Thread-compatible.
class StepRows final : public EngramRows {
 public:
  // OWNERSHIP: `source` outlives this.
  explicit StepRows(AwaitableRows* source) : source_(source) {}

  // Starts a step: every chunk must have its ticket. The tickets stay the caller's.
  void Begin(std::span<const Chunk> step);
  // The same from pieces, at least one, each of at least one token.
  void Begin(std::span<const RowPiece> pieces);

  [[nodiscard]] Result<std::span<const LayerRows>> Rows(int32_t layer_index) override;
  [[nodiscard]] std::span<const RowPiece> pieces() const override { return pieces_; }

  // What Rows last failed with since Begin; ok if it did not.
  [[nodiscard]] const Status& error() const { return error_; }

 private:
  [[nodiscard]] Result<LayerRows> Await(const RowPiece& piece, int32_t layer_index);

  AwaitableRows* source_;
  std::vector<RowPiece> pieces_;
  std::vector<LayerRows> layer_rows_;  // of the layer asked for last, one for each piece
  Status error_;
};

}  // namespace engram
