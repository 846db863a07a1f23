#include "model_worker/cuda/device_choice.h"

#include <string>

namespace engram::gpu {

Result<int32_t> ChooseGpu(std::optional<uint32_t> wanted, uint32_t host_rank, uint32_t visible) {
  const uint32_t chosen = wanted.has_value() ? *wanted : visible == 1 ? 0 : host_rank;
  if (chosen < visible) return static_cast<int32_t>(chosen);
  const std::string seen = std::to_string(visible) + " GPUs (CUDA_VISIBLE_DEVICES may hide some)";
  if (wanted.has_value()) {
    return Error(StatusCode::kFailedPrecondition, "GPU " + std::to_string(chosen) +
                                                      " is not there: this process sees " + seen +
                                                      "; give --gpu a number below that");
  }
  return Error(StatusCode::kFailedPrecondition,
               "rank " + std::to_string(chosen) + " of this host has no GPU: it sees " + seen +
                   "; start as many ranks on a host as it has GPUs, or show each rank one of its "
                   "own, or choose with --gpu");
}

}  // namespace engram::gpu
