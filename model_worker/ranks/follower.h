// The other ranks: they do what rank 0's engine does, until it stops.
#pragma once

#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"

namespace engram {

// Follows rank 0's RankLeader to its end. `sources` as rank 0's. A rank that is lost, or that
// fails alone, ends all ranks (Collective::Abort).
// ERRORS: kMalformed (rank 0 is of another build).
[[nodiscard]] Status FollowLeader(Collective* collective, Backend* backend,
                                  const std::vector<RowSource*>& sources);

}  // namespace engram
