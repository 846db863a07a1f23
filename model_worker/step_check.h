// What every backend refuses before it computes: broken bounds, positions that do not follow, rows
// of another shape.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"
#include "model_worker/backend.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram {

// How far each sequence slot is. Thread-compatible.
class SequencePositions {
 public:
  SequencePositions(const Backend::Limits& limits, int32_t vocabulary_size)
      : limits_(limits),
        vocabulary_size_(vocabulary_size),
        next_(limits.sequences_max, 0),
        checked_(limits.sequences_max, 0) {}

  // A slot out of range is ignored, as Backend::ResetSlot may be.
  void Reset(SequenceSlot slot);
  // ERRORS: kInvalidArgument naming the slot and the bound; nothing changes.
  [[nodiscard]] Status Check(std::span<const SequenceStep> steps);
  // From here to Finish the slots of the step are unspecified: without Finish they need a reset.
  void Begin(std::span<const SequenceStep> steps);
  void Finish(std::span<const SequenceStep> steps);

 private:
  [[nodiscard]] Status CheckOne(const SequenceStep& step) const;

  Backend::Limits limits_;
  int32_t vocabulary_size_;
  std::vector<uint32_t> next_;     // [slots] the next position
  std::vector<uint64_t> checked_;  // [slots] the last Check that met it
  uint64_t check_ = 0;
};

// ERRORS: kInvalidArgument: limits of 0 or too large, positions past config.positions_max, an
// Engram checkpoint with more than one branch (these backends have the plain residual stream).
[[nodiscard]] Status CheckBackendLimits(const ModelConfig& config, const ModelWeights& weights,
                                        const Backend::Limits& limits);

// What Forward returns where `status` came after Begin. Memory that ran out then did so on this
// rank alone, while kResourceExhausted of a step means that it was refused before anything was
// computed, by all ranks alike (ranks/step_outcome.h): it becomes kInternal.
//   rows_error  what EngramRows::Rows failed with in this step, or ok: that stays as it is, since
//               all ranks know of it
[[nodiscard]] Status WhileComputing(const Status& status, const Status& rows_error);

// What one layer's rows must be.
struct LayerRowsShape {
  int32_t layer_id = 0;  // for messages
  Variant variant = Variant::kV41;
  uint32_t columns = 0;
  uint32_t row_bytes = 0;
  uint64_t table_rows = 0;    // of the table that the backend has itself; 0 = it has none
  bool takes_landed = false;  // the backend is where rows land
};
// Of row ids, those of dead positions are not looked at: they name nothing.
//   pieces  of all tokens of the step, in order
// ERRORS: kInternal (`pieces` are not of this step or model; row ids in some of them only, without
// a table, or one outside of it; rows that landed on a GPU, of a backend elsewhere),
// kInvalidArgument (dead positions in the demo variant, which has none).
[[nodiscard]] Status CheckLayerRows(const LayerRowsShape& shape, std::span<const LayerRows> pieces,
                                    uint32_t token_count);

}  // namespace engram
