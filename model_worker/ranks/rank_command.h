// What rank 0 tells the other ranks to do: everything that it does itself to its backend and its
// rows, in the same order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/backend.h"

namespace engram {

enum class RankCommandKind : uint8_t {
  kPrefetch,
  kRelease,
  kResetSlot,
  kForward,
  kTellFigures,  // gather RankFigures (ranks/rank_figures.h)
  kStop,
};

// One command, decoded. Its spans are into memory of its own: they are valid until it is decoded
// into again. Thread-compatible.
struct RankCommand {
  RankCommandKind kind = RankCommandKind::kStop;
  // kPrefetch, kRelease
  Ticket ticket;  // given by rank 0: the ranks' own tickets differ
  // kPrefetch
  uint32_t source = 0;  // which row source
  BatchOptions batch;
  std::vector<TokenRun> runs;
  // kResetSlot
  SequenceSlot slot;
  // kForward
  bool engram_on = false;
  std::vector<SequenceStep> steps;
  std::vector<RowPiece> pieces;

  std::vector<TokenId> tokens;  // what runs and steps point into
  std::vector<uint8_t> dead;    // and masks
};

// Each replaces *out.
void EncodePrefetch(Ticket ticket, uint32_t source, const BatchOptions& batch,
                    std::span<const TokenRun> runs, std::vector<std::byte>* out);
void EncodeRelease(Ticket ticket, std::vector<std::byte>* out);
void EncodeResetSlot(SequenceSlot slot, std::vector<std::byte>* out);
// `engram_on` false: no pieces.
void EncodeForward(std::span<const SequenceStep> steps, bool engram_on,
                   std::span<const RowPiece> pieces, std::vector<std::byte>* out);
void EncodePlain(RankCommandKind kind, std::vector<std::byte>* out);

// ERRORS: kMalformed: a rank of another build, or a bug.
[[nodiscard]] Status DecodeRankCommand(std::span<const std::byte> message, RankCommand* out);

}  // namespace engram
