// Whether the ranks are still alike after a step.
#pragma once

#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram {

// Goes on where every rank has the same outcome: the step was computed, or refused for what is in
// it before anything was computed (kInvalidArgument, kResourceExhausted: all ranks have the same
// step and the same slots; later on a backend says kInternal, WhileComputing), or ended by rows
// that the ranks know of from each other.
//   rows_failure  RankRows::failure() since the step began
// Anything else happened on this rank alone, and the others wait for it: ends them all.
inline void CheckStepOutcome(Collective* collective, const Status& outcome,
                             const Status& rows_failure) {
  if (outcome.ok() || outcome.code() == StatusCode::kInvalidArgument ||
      outcome.code() == StatusCode::kResourceExhausted || outcome == rows_failure) {
    return;
  }
  collective->Abort(outcome.WithContext("in the middle of a step"));
}

}  // namespace engram
