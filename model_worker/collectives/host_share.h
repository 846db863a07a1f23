// What of its host a rank may use, where several ranks are on one.
#pragma once

#include <cstdint>

#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram {

struct HostShare {
  uint32_t rank = 0;        // among the ranks on this host: which GPU is this one's
  uint32_t rank_count = 1;  // on this host
  // Compute threads for this rank: the cores that it may run on, divided among the ranks that may
  // run on the same ones; at least 1.
  uint32_t threads = 1;
  bool bound_to_few = false;  // mpirun bound it to one core though the host has more for each
};

// Asks every rank. `collective` may be null: one rank. ERRORS: the collective's.
[[nodiscard]] Result<HostShare> ShareHost(Collective* collective);

}  // namespace engram
