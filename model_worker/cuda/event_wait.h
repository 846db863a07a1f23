// How a rank waits for its GPU, whose kernels may be waiting for other ranks' GPUs.
#pragma once

#include <chrono>
#include <functional>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram::gpu {

// What a look at the GPU finds: true = it is done; an error = it never will be.
using GpuLook = std::function<Result<bool>()>;

// Looks until the GPU is done, and calls `pause` between looks.
//   look_at_peers  what the connection to the other ranks says; asked after each look that found
//                  the GPU busy
//   patience       0 = for ever
// ERRORS: those of the looks; kDeadlineExceeded naming `what` where patience ended.
[[nodiscard]] Status AwaitGpu(const char* what, const GpuLook& look,
                              const std::function<Status()>& look_at_peers,
                              std::chrono::milliseconds patience, const Clock& clock,
                              const std::function<void()>& pause);

}  // namespace engram::gpu
