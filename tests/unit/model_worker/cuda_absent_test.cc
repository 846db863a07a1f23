// What a person reads who asks for a GPU where there is none.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/cuda_backend.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

TEST(CudaAbsentTest, TheErrorSaysWhatToDo) {
  const test::ScratchDir scratch;
  const test::TinyModel model = test::TinyModel::Write({}, scratch.path());
  const auto config = ReadModelConfig(model.dir());
  CudaBackendOptions options;
  options.limits = {1, 64, 64};
  const auto backend = CreateCudaBackend(*config, *LoadWeights(model.dir(), *config), options);
  if (backend.has_value()) GTEST_SKIP() << "this machine has a GPU, and this build CUDA";
  EXPECT_EQ(backend.error().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(backend.error().message(), testing::HasSubstr("--backend cpu"));
}

}  // namespace
}  // namespace engram
