// JoinMpiRanks of builds without MPI.
#include "model_worker/collectives/mpi_ranks.h"

namespace engram {

Result<std::unique_ptr<Collective>> JoinMpiRanks() {
  return Error(StatusCode::kFailedPrecondition,
               "this program was built without MPI, so it cannot share a model among the ranks of "
               "mpirun: run deploy/install-deps, configure and build again, or start it without "
               "mpirun (or with --tensor-parallel 1, one model for each rank)");
}

}  // namespace engram
