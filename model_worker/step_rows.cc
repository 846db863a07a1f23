#include "model_worker/step_rows.h"

#include <cstddef>

#include "engram/base/check.h"

namespace engram {

void StepRows::Begin(std::span<const Chunk> step) {
  pieces_.clear();
  error_ = Status();
  for (const Chunk& chunk : step) {
    ENGRAM_CHECK(chunk.ticket != Ticket());
    if (!pieces_.empty()) {
      RowPiece& last = pieces_.back();
      if (last.ticket == chunk.ticket &&
          last.first_token + last.token_count == chunk.ticket_token) {
        last.token_count += chunk.count;
        continue;
      }
    }
    pieces_.push_back({chunk.ticket, chunk.ticket_token, chunk.count});
  }
}

void StepRows::Begin(std::span<const RowPiece> pieces) {
  pieces_.assign(pieces.begin(), pieces.end());
  error_ = Status();
}

Result<std::span<const LayerRows>> StepRows::Rows(int32_t layer_index) {
  ENGRAM_CHECK(layer_index >= 0 && !pieces_.empty());
  layer_rows_.clear();
  for (const RowPiece& piece : pieces_) {
    Result<LayerRows> rows = Await(piece, layer_index);
    if (!rows.has_value()) {
      error_ = rows.error();
      return Error(error_);
    }
    layer_rows_.push_back(*rows);
  }
  return std::span<const LayerRows>(layer_rows_);
}

Result<LayerRows> StepRows::Await(const RowPiece& piece, int32_t layer_index) {
  ENGRAM_ASSIGN_OR_RETURN(LayerRows rows, source_->Await(piece.ticket, layer_index));
  ENGRAM_CHECK(piece.first_token + piece.token_count <= rows.token_count);
  const size_t token_bytes = rows.rows.size() / rows.token_count;
  rows.rows = rows.rows.subspan(piece.first_token * token_bytes, piece.token_count * token_bytes);
  if (!rows.dead.empty()) rows.dead = rows.dead.subspan(piece.first_token, piece.token_count);
  rows.token_count = piece.token_count;
  return rows;
}

}  // namespace engram
