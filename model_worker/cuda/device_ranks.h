// The GPUs of the ranks that compute a model together: NCCL.
#pragma once

#include <cstddef>
#include <memory>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/collectives/collective.h"

namespace engram::gpu {

// One rank's end, on the device that was current when it joined. One thread drives it.
class DeviceRanks {
 public:
  virtual ~DeviceRanks() = default;

  // Called by every rank: `collective` carries what NCCL needs to find the others. Each rank has a
  // GPU of its own.
  // ERRORS: kFailedPrecondition (a build or a machine without NCCL), kInternal (NCCL's words: for
  // instance two ranks on one GPU).
  [[nodiscard]] static Result<std::unique_ptr<DeviceRanks>> Join(Collective* collective);

  // Adds all ranks' values, place by place, in place. Asynchronous on `stream`; may be captured.
  // The order of a sum is NCCL's: the same for the same numbers of ranks and values.
  // A rank that is lost is waited for on the GPU: the host's waits are bounded (RankEvents).
  [[nodiscard]] virtual Status AllReduce(float* values, size_t count, cudaStream_t stream) = 0;

  // What NCCL has noticed of the other ranks since. ERRORS: kInternal.
  [[nodiscard]] virtual Status Look() const = 0;
};

}  // namespace engram::gpu
