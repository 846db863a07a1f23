// Which GPU a rank computes on. No CUDA.
#pragma once

#include <cstdint>
#include <optional>

#include "engram/base/status.h"

namespace engram::gpu {

// As CUDA counts those that the process sees: the wanted one, else the only one that is visible (a
// launcher that gives each rank a GPU of its own shows it no other: srun --gpus-per-task=1), else
// as many as there are ranks on the host, in their order.
//   host_rank  of this rank among those of its host
//   visible    GPUs that this process sees
// ERRORS: kFailedPrecondition naming what to do.
[[nodiscard]] Result<int32_t> ChooseGpu(std::optional<uint32_t> wanted, uint32_t host_rank,
                                        uint32_t visible);

}  // namespace engram::gpu
