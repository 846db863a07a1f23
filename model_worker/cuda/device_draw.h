// How one token is drawn, as the kernel that draws takes it. Host logic, no CUDA.
#pragma once

#include <cstdint>

#include "model_worker/sampling.h"

namespace engram::gpu {

struct DeviceDraw {
  double uniform = 0;     // in [0, 1)
  double top_p = 1;       // 1 = all
  float temperature = 0;  // 0 = the likeliest
  uint32_t top_k = 0;     // 0 = all
};

[[nodiscard]] inline DeviceDraw DrawOnDevice(const TokenDraw& draw) {
  return {UniformDraw(draw.params.seed, draw.counter), double{draw.params.top_p},
          draw.params.temperature, draw.params.top_k};
}

}  // namespace engram::gpu
