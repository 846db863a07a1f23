#include "model_worker/cuda/rank_events.h"

#include <thread>

#include "engram/base/clock.h"
#include "model_worker/cuda/device_status.h"
#include "model_worker/cuda/event_wait.h"

namespace engram::gpu {

Status RankEvents::Await(cudaEvent_t event, const char* what) const {
  const auto look = [&]() -> Result<bool> {
    const cudaError_t found = cudaEventQuery(event);
    if (found == cudaErrorNotReady) return false;
    ENGRAM_TRY(CudaStatus(found, what));
    return true;
  };
  const MonotonicTime spun = SteadyClock().Now() + spin_;
  if (ranks_ != nullptr) {
    return AwaitGpu(
        what, look, [this] { return ranks_->Look(); }, patience_, SteadyClock(),
        [&] {
          if (SteadyClock().Now() < spun) return;
          std::this_thread::sleep_for(std::chrono::microseconds(20));
        });
  }
  while (SteadyClock().Now() < spun) {
    const Result<bool> done = look();
    if (!done.has_value()) return done.error();
    if (*done) return {};
  }
  return CudaStatus(cudaEventSynchronize(event), what);
}

}  // namespace engram::gpu
