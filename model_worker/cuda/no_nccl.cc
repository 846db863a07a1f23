// DeviceRanks of builds with CUDA and without NCCL.
#include "model_worker/cuda/device_ranks.h"

namespace engram::gpu {

Result<std::unique_ptr<DeviceRanks>> DeviceRanks::Join(Collective* /*collective*/) {
  return Error(StatusCode::kFailedPrecondition,
               "this program was built without NCCL, so GPUs cannot share a model: run "
               "deploy/install-deps --cuda, which fetches it, configure (the line \"NCCL ON\" must "
               "come) and build again, or start it without mpirun");
}

}  // namespace engram::gpu
