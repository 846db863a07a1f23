#include "model_worker/cuda/event_wait.h"

#include <string>

namespace engram::gpu {

Status AwaitGpu(const char* what, const GpuLook& look, const std::function<Status()>& look_at_peers,
                std::chrono::milliseconds patience, const Clock& clock,
                const std::function<void()>& pause) {
  const MonotonicTime began = clock.Now();
  while (true) {
    const Result<bool> done = look();
    if (!done.has_value()) return done.error();
    if (*done) return {};
    ENGRAM_RETURN_IF_ERROR(look_at_peers());
    if (patience != std::chrono::milliseconds{} && clock.Now() - began > patience) {
      return {StatusCode::kDeadlineExceeded,
              "waited " + std::to_string(patience.count()) + " ms for this rank's GPU in " + what +
                  ": another rank or its GPU is lost, stopped or far too slow (--rank-timeout-s)"};
    }
    pause();
  }
}

}  // namespace engram::gpu
