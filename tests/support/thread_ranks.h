// Ranks of one model as threads of a test: a Collective without MPI.
#pragma once

#include <cstdint>
#include <functional>

#include "model_worker/collectives/collective.h"

namespace engram::test {

// Runs `body` once for each rank, each on a thread of its own, and returns when all have returned.
// A rank that waits for another one for a minute ends the test program.
void RunRanks(uint32_t rank_count, const std::function<void(Collective* collective)>& body);

}  // namespace engram::test
