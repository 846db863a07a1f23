#include "model_worker/cuda/rank_events.h"

#include <thread>

#include "engram/base/clock.h"
#include "model_worker/cuda/device_status.h"
#include "model_worker/cuda/event_wait.h"

namespace engram::gpu {

Status RankEvents::Await(cudaEvent_t event, const char* what) const {
  if (ranks_ == nullptr) return CudaStatus(cudaEventSynchronize(event), what);
  const auto look = [&]() -> Result<bool> {
    const cudaError_t found = cudaEventQuery(event);
    if (found == cudaErrorNotReady) return false;
    ENGRAM_TRY(CudaStatus(found, what));
    return true;
  };
  return AwaitGpu(
      what, look, [this] { return ranks_->Look(); }, patience_, SteadyClock(),
      [] { std::this_thread::sleep_for(std::chrono::microseconds(20)); });
}

}  // namespace engram::gpu
