#include "model_worker/step_rows.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "engram/base/check.h"

namespace engram {

void StepRows::Begin(std::span<const Chunk> step) {
  pieces_.clear();
  token_count_ = 0;
  error_ = Status();
  for (const Chunk& chunk : step) {
    ENGRAM_CHECK(chunk.ticket != Ticket());
    token_count_ += chunk.count;
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
  token_count_ = 0;
  error_ = Status();
  for (const RowPiece& piece : pieces_) token_count_ += piece.token_count;
}

Result<LayerRows> StepRows::Rows(int32_t layer_index) {
  ENGRAM_CHECK(layer_index >= 0 && !pieces_.empty());
  auto rows = pieces_.size() == 1 ? HandThrough(layer_index) : Gather(layer_index);
  if (!rows.has_value()) error_ = rows.error();
  return rows;
}

Result<LayerRows> StepRows::HandThrough(int32_t layer_index) {
  const RowPiece& piece = pieces_.front();
  ENGRAM_ASSIGN_OR_RETURN(LayerRows rows, source_->Await(piece.ticket, layer_index));
  ENGRAM_CHECK(piece.first_token + piece.token_count <= rows.token_count);
  const size_t token_bytes = rows.rows.size() / rows.token_count;
  rows.rows = rows.rows.subspan(piece.first_token * token_bytes, piece.token_count * token_bytes);
  if (!rows.dead.empty()) rows.dead = rows.dead.subspan(piece.first_token, piece.token_count);
  rows.token_count = piece.token_count;
  return rows;
}

Result<LayerRows> StepRows::Gather(int32_t layer_index) {
  if (copies_.size() <= static_cast<size_t>(layer_index)) {
    copies_.resize(static_cast<size_t>(layer_index) + 1);
  }
  LayerCopy& copy = copies_[static_cast<size_t>(layer_index)];
  LayerRows result;
  size_t token = 0;
  size_t token_bytes = 0;
  bool any_dead = false;
  copy.dead.assign(token_count_, 0);
  for (const RowPiece& piece : pieces_) {
    ENGRAM_ASSIGN_OR_RETURN(const LayerRows rows, source_->Await(piece.ticket, layer_index));
    ENGRAM_CHECK(piece.first_token + piece.token_count <= rows.token_count);
    if (token == 0) {
      result.only_ids = rows.only_ids;
      token_bytes = rows.rows.size() / rows.token_count;
      copy.rows.resize(token_count_ * token_bytes);
    }
    ENGRAM_CHECK(rows.only_ids == result.only_ids &&
                 rows.rows.size() == rows.token_count * token_bytes);
    std::memcpy(copy.rows.data() + token * token_bytes,
                rows.rows.data() + piece.first_token * token_bytes,
                piece.token_count * token_bytes);
    if (!rows.dead.empty()) {
      any_dead = true;
      std::copy_n(rows.dead.begin() + piece.first_token, piece.token_count,
                  copy.dead.begin() + static_cast<std::ptrdiff_t>(token));
    }
    token += piece.token_count;
  }
  result.rows = copy.rows;
  if (any_dead) result.dead = copy.dead;
  result.token_count = token_count_;
  return result;
}

}  // namespace engram
