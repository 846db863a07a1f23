// Waits of the host for events of the GPU.
#pragma once

#include <chrono>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/cuda/device_ranks.h"

namespace engram::gpu {

// The host looks all the time while `spin` lasts. Then, of one rank, the wait is CUDA's own and
// sleeps: a wake costs some tens of microseconds. Of several ranks it is bounded: the event may be
// behind a kernel that waits for a rank that is lost. Then the host looks every 20 us or so.
// Thread-compatible.
class RankEvents {
 public:
  // OWNERSHIP: `ranks` outlives this; null = one rank.
  RankEvents(const DeviceRanks* ranks, std::chrono::milliseconds patience,
             std::chrono::microseconds spin)
      : ranks_(ranks), patience_(patience), spin_(spin) {}

  // Asynchronous errors of what was enqueued before come out here.
  // ERRORS: kInternal (CUDA, NCCL), kDeadlineExceeded (several ranks only).
  [[nodiscard]] Status Await(cudaEvent_t event, const char* what) const;

 private:
  const DeviceRanks* ranks_;
  std::chrono::milliseconds patience_;
  std::chrono::microseconds spin_;
};

}  // namespace engram::gpu
