// Matrix products on cuBLASLt.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>

#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/cuda/device_memory.h"

namespace engram::gpu {

// y [rows][outputs] = x [rows][inputs] W^T, W [outputs][inputs]; x and W bf16, sums fp32.
struct MatmulShape {
  enum class Output : uint8_t {
    kBf16,
    kF32,
    kAddF32,  // y += : the residual stream
  };
  uint32_t rows = 0;
  uint32_t outputs = 0;
  uint32_t inputs = 0;
  Output output = Output::kBf16;
  friend auto operator<=>(const MatmulShape&, const MatmulShape&) = default;
};

// One thread drives it. How a shape is computed is chosen once, by cuBLASLt's own model of the GPU
// and without measuring, so that every run of a program computes alike; ways that add parts of a
// sum in the order in which they come are not used.
class Matmuls {
 public:
  // ERRORS: kInternal, kResourceExhausted.
  [[nodiscard]] static Result<std::unique_ptr<Matmuls>> Create();
  ~Matmuls();
  Matmuls(const Matmuls&) = delete;
  Matmuls& operator=(const Matmuls&) = delete;

  // Asynchronous on `stream`; may be captured. All calls must be on one stream at a time: they
  // share a workspace. Pointers are aligned to 16 bytes. ERRORS: kInternal naming the shape.
  [[nodiscard]] Status Run(const MatmulShape& shape, const __nv_bfloat16* x,
                           const __nv_bfloat16* weights, void* y, cudaStream_t stream);

 private:
  struct Plan;
  Matmuls() = default;
  [[nodiscard]] Result<const Plan*> Get(const MatmulShape& shape);

  cublasLtHandle_t handle_ = nullptr;
  DeviceArray<uint8_t> workspace_;
  std::map<MatmulShape, std::unique_ptr<const Plan>> plans_;
};

}  // namespace engram::gpu
