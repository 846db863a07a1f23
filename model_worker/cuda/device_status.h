// CUDA's and cuBLASLt's errors as Status.
#pragma once

#include <string>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"

namespace engram::gpu {

// kResourceExhausted where memory ran out, else kInternal; the message says what was being done.
[[nodiscard]] inline Status CudaStatus(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return {};
  return {
      error == cudaErrorMemoryAllocation ? StatusCode::kResourceExhausted : StatusCode::kInternal,
      std::string("CUDA, ") + what + ": " + cudaGetErrorName(error) + " (" +
          cudaGetErrorString(error) + ")"};
}

}  // namespace engram::gpu

// Leaves a function that returns Status when a CUDA call failed; `what` names what it was for.
#define ENGRAM_CUDA_TRY(expr, what) \
  ENGRAM_RETURN_IF_ERROR(::engram::gpu::CudaStatus((expr), (what)))
