// What rank 0 tells the other ranks.
#include <vector>

#include "engram/base/check.h"
#include "model_worker/ranks/rank_command.h"

using namespace engram;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  // A copy of exactly that size: reading past it is found.
  const auto* const first = reinterpret_cast<const std::byte*>(data);
  const std::vector<std::byte> message(first, first + size);
  static RankCommand command;
  if (!DecodeRankCommand(message, &command).ok()) return 0;
  // What was decoded is the message, whole: it is written again the same.
  std::vector<std::byte> again;
  switch (command.kind) {
    case RankCommandKind::kPrefetch:
      EncodePrefetch(command.ticket, command.source, command.batch, command.runs, &again);
      break;
    case RankCommandKind::kRelease:
      EncodeRelease(command.ticket, &again);
      break;
    case RankCommandKind::kResetSlot:
      EncodeResetSlot(command.slot, &again);
      break;
    case RankCommandKind::kForward:
      EncodeForward(command.steps, command.engram_on, command.pieces, &again);
      break;
    case RankCommandKind::kTellFigures:
    case RankCommandKind::kStop:
      EncodePlain(command.kind, &again);
      break;
  }
  ENGRAM_CHECK(again == message);
  return 0;
}
