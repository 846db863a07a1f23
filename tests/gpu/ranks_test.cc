// Several GPUs that compute one model against the CPU's whole one. Skips with fewer GPUs or no
// NCCL.
#include "tests/gpu/backend_pair.h"
#include "tests/gpu/gpu_test.h"
#include "tests/gpu/logits_error.h"
#include "tests/reference/sequence_run.h"
#include "tests/support/child_process.h"
#include "tests/support/thread_ranks.h"

namespace engram::gpu {
namespace {

using test::Logits;
using test::Prompt;

constexpr Backend::Limits kLimits{6, 200, 200};

struct Case {
  const char* name;
  test::TinyModelShape shape;
};

std::vector<Case> Cases() {
  test::TinyModelShape v41;
  v41.dtype = Dtype::kBf16;  // so that rounding weights changes nothing
  v41.head_count = 8;
  v41.kv_head_count = 4;
  v41.intermediate_size = 96;
  test::TinyModelShape demo = v41;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  demo.tied = false;
  test::TinyModelShape plain = v41;
  plain.variant = std::nullopt;
  return {{"V41", v41}, {"Demo", demo}, {"Plain", plain}};
}

class GpuRanksTest : public GpuTest, public testing::WithParamInterface<Case> {};

TEST_P(GpuRanksTest, LogitsAndTokensAreThoseOfOne) {
  const test::ScratchDir scratch;
  const test::TinyModel model = test::TinyModel::Write(GetParam().shape, scratch.path());
  std::vector<Prompt> prompts;
  for (const uint32_t tokens : {5u, 70u, 1u, 12u}) {
    prompts.push_back(test::RandomPrompt(model.shape(), tokens,
                                         GetParam().shape.variant == Variant::kV41, tokens));
  }
  const auto cpu = test::OpenBackend(model, 2, kLimits);
  const Logits reference = RunSequences(cpu.get(), model, prompts, {7, true});
  int gpus = 0;
  ExpectCuda(cudaGetDeviceCount(&gpus));
  if (gpus < 2) GTEST_SKIP() << "ranks need a GPU each, and there is one";
  for (uint32_t count = 2; count <= 4 && count <= static_cast<uint32_t>(gpus); count *= 2) {
    Logits logits;
    std::vector<TokenId> drawn;
    std::optional<Status> refused;
    test::RunRanks(count, [&](Collective* collective) {
      CudaBackendOptions options;
      options.limits = kLimits;
      options.collective = collective;
      options.host_rank = collective->rank();
      options.rank_patience = std::chrono::seconds(60);
      const auto backend = TryOpenCuda(model, options);
      if (!backend.has_value()) {
        if (collective->rank() == 0) refused = backend.error();
        return;
      }
      // Prefill in chunks and decode, the graphs of decode among them.
      Logits mine = RunSequences(backend->get(), model, prompts, {7, true});
      const Logits by_token = RunSequences(backend->get(), model, prompts, {1, true});
      EXPECT_GT((*backend)->stats().graphs_launched, 20u);
      const std::vector<TokenId> tokens = {3, 1, 4};
      (*backend)->ResetSlot(SequenceSlot(0));
      const SequenceStep step{SequenceSlot(0), 0, tokens, true};
      const std::vector<TokenDraw> draws(1);
      std::vector<TokenId> token;
      EXPECT_TRUE((*backend)
                      ->ForwardAndSample({&step, 1}, nullptr,
                                         {draws, (*backend)->vocabulary_size()}, &token)
                      .ok());
      if (collective->rank() != 0) {
        EXPECT_TRUE(token.empty());
        return;
      }
      EXPECT_LT(WorstError(by_token, reference), kErrorMax);
      logits = std::move(mine);
      drawn = token;
    });
    if (refused.has_value()) {
      ASSERT_EQ(refused->code(), StatusCode::kFailedPrecondition) << refused->ToString();
      GTEST_SKIP() << refused->ToString();
    }
    EXPECT_LT(WorstError(logits, reference), kErrorMax) << count;
    ASSERT_EQ(drawn.size(), 1u);
    EXPECT_GE(drawn[0], 0);
  }
}
INSTANTIATE_TEST_SUITE_P(Models, GpuRanksTest, testing::ValuesIn(Cases()),
                         [](const auto& model) { return std::string(model.param.name); });

}  // namespace
}  // namespace engram::gpu
