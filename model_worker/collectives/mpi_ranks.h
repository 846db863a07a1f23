// Ranks that mpirun started: processes of this program.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram {

// As a launcher's environment says (Open MPI, or PMI as of MPICH and Intel MPI); nothing without
// one. Asks no library.
struct LaunchedRanks {
  uint32_t rank = 0;
  uint32_t count = 1;
};
[[nodiscard]] std::optional<LaunchedRanks> FindLaunchedRanks();

// Initialises MPI; its end is the result's, by when every rank must have left: a rank that ends
// without it (by an exit or a signal) makes mpirun end the others. Once in a process.
//
// A wait spins for some microseconds, then gives the core away, then sleeps for up to 1 ms at a
// time: MPI has nothing to sleep on.
// ERRORS: kFailedPrecondition (a build without MPI), kInternal (MPI's words, or it takes calls from
// one thread only).
[[nodiscard]] Result<std::unique_ptr<Collective>> JoinMpiRanks();

}  // namespace engram
