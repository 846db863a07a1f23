// CreateCudaBackend of builds without CUDA.
#include "model_worker/cuda/cuda_backend.h"

namespace engram {

// The weights by value, as the real one takes them.
// NOLINTNEXTLINE(performance-unnecessary-value-param)
Result<std::unique_ptr<CudaBackend>> CreateCudaBackend(const ModelConfig&, ModelWeights,
                                                       const CudaBackendOptions&) {
  return Error(StatusCode::kFailedPrecondition,
               "this program was built without CUDA: use --backend cpu, or build it with "
               "deploy/install-deps --cuda, cmake --preset cuda, cmake --build --preset cuda");
}

}  // namespace engram
