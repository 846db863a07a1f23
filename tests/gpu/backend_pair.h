// A tiny model open in the CUDA backend. For tests.
#pragma once

#include <memory>

#include <gtest/gtest.h>

#include "model_worker/cuda/cuda_backend.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"
#include "tests/reference/tiny_model.h"

namespace engram::gpu {

[[nodiscard]] inline Result<std::unique_ptr<CudaBackend>> TryOpenCuda(
    const test::TinyModel& model, const CudaBackendOptions& options) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(model.dir()));
  TensorPart part;
  if (options.collective != nullptr) {
    part = {options.collective->rank(), options.collective->rank_count()};
  }
  ENGRAM_ASSIGN_OR_RETURN(ModelWeights weights, LoadWeights(model.dir(), config, part));
  return CreateCudaBackend(config, std::move(weights), options);
}

[[nodiscard]] inline std::unique_ptr<CudaBackend> OpenCuda(const test::TinyModel& model,
                                                           const Backend::Limits& limits,
                                                           bool graphs = true) {
  CudaBackendOptions options;
  options.limits = limits;
  options.graphs = graphs;
  auto backend = TryOpenCuda(model, options);
  EXPECT_TRUE(backend.has_value()) << backend.error().ToString();
  return backend.has_value() ? *std::move(backend) : nullptr;
}

}  // namespace engram::gpu
