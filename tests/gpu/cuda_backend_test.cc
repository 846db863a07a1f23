// The CUDA backend against the CPU's on small models, however sequences are cut and shared.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <optional>

#include <gmock/gmock.h>

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
using test::RandomPrompt;
using test::RunSequences;
using test::ScratchDir;
using test::TinyModel;
using test::TinyModelShape;
using test::TinyRows;
using testing::ElementsAre;
using testing::HasSubstr;

constexpr Backend::Limits kLimits{8, 400, 300};
#ifdef ENGRAM_CUDA_ON_HOST
const std::vector<uint32_t> kPromptTokens = {9, 3, 70, 1};
constexpr uint32_t kManySequences = 18, kManyTokens = 29;
constexpr uint32_t kWideHeads = 4;
#else
const std::vector<uint32_t> kPromptTokens = {40, 3, 330, 1, 64, 129};
constexpr uint32_t kManySequences = 70, kManyTokens = 99;
constexpr uint32_t kWideHeads = 8;
#endif
// Between two ways of the same bf16 computation: other matrix product tiles.
constexpr double kErrorOfTilesMax = 0.02;

bool SameBits(const Logits& a, const Logits& b) {
  for (size_t p = 0; p < a.size(); ++p) {
    for (size_t t = 0; t < a[p].size(); ++t) {
      if (a[p][t].size() != b[p][t].size()) return false;
      if (a[p][t].empty()) continue;
      if (std::memcmp(a[p][t].data(), b[p][t].data(), a[p][t].size() * sizeof(float)) != 0) {
        return false;
      }
    }
  }
  return true;
}

struct Case {
  const char* name;
  TinyModelShape shape;
};

std::vector<Case> Cases() {
  std::vector<Case> cases;
  TinyModelShape v41;
  v41.dtype = Dtype::kBf16;  // so that rounding weights changes nothing
  cases.push_back({"V41", v41});
  TinyModelShape wide = v41;
  wide.hidden_size = 32 * kWideHeads;
  wide.head_dim = 128;
  wide.head_count = static_cast<int32_t>(kWideHeads);
  wide.intermediate_size = 512;
  wide.row_values = 256;
  wide.max_ngram_size = 4;
  wide.engram_layers = {0, 2};
  wide.tied = false;
  cases.push_back({"V41Wide", wide});
  TinyModelShape demo = v41;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  cases.push_back({"Demo", demo});
  demo.demo_table_dtype = Dtype::kBf16;
  demo.head_dim = 64;
  demo.kv_head_count = 1;
  demo.engram_layers = {0, 1, 3};
  cases.push_back({"DemoBf16Table", demo});
  TinyModelShape plain = v41;
  plain.variant = std::nullopt;
  plain.head_count = 6;
  cases.push_back({"PlainQwen3", plain});
  return cases;
}

class CudaBackendTest : public GpuTest, public testing::WithParamInterface<Case> {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    model_.emplace(TinyModel::Write(GetParam().shape, scratch_.path()));
    backend_ = OpenCuda(*model_, kLimits);
    ASSERT_NE(backend_, nullptr);
    for (const uint32_t tokens : kPromptTokens) {
      const bool dead = GetParam().shape.variant == Variant::kV41;
      prompts_.push_back(RandomPrompt(model_->shape(), tokens, dead, tokens));
    }
  }

  Status Step(uint32_t slot, uint32_t position, const std::vector<TokenId>& tokens) {
    const SequenceStep step{SequenceSlot(slot), position, tokens, true};
    return backend_->Forward({&step, 1}, nullptr, &logits_);
  }

  ScratchDir scratch_;
  std::optional<TinyModel> model_;
  std::unique_ptr<CudaBackend> backend_;
  std::vector<Prompt> prompts_;
  std::vector<float> logits_;
};

TEST_P(CudaBackendTest, LogitsAgreeWithTheCpusHoweverSequencesAreCut) {
  const auto cpu = test::OpenBackend(*model_, 8, kLimits);
  const Logits reference = RunSequences(cpu.get(), *model_, prompts_, {1, true});
  ASSERT_FALSE(HasFatalFailure());
  std::optional<Logits> first;
  // 41 tokens of 6 sequences fit a step of 300.
  for (const test::Schedule& schedule :
       {test::Schedule{1, true}, {1, false}, {300, false}, {64, false}, {13, true}, {41, true}}) {
    const Logits ours = RunSequences(backend_.get(), *model_, prompts_, schedule);
    ASSERT_FALSE(HasFatalFailure());
    const double error = WorstError(ours, reference);
    EXPECT_LT(error, kErrorMax);
    if (!first.has_value()) first = ours;
    const double tiles = WorstError(ours, *first);
    EXPECT_LT(tiles, kErrorOfTilesMax);
    printf("%s, chunks of %u%s: %.2e of the logits' range from fp32, %.2e from token by token\n",
           GetParam().name, schedule.chunk_tokens, schedule.together ? " together" : "", error,
           tiles);
  }
}

TEST_P(CudaBackendTest, GraphsChangeNoBitAndRunsRepeat) {
  const auto without = OpenCuda(*model_, kLimits, false);
  for (const test::Schedule& schedule : {test::Schedule{1, true}, {1, false}, {30, true}}) {
    const Logits a = RunSequences(backend_.get(), *model_, prompts_, schedule);
    const Logits b = RunSequences(without.get(), *model_, prompts_, schedule);
    const Logits again = RunSequences(backend_.get(), *model_, prompts_, schedule);
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_TRUE(SameBits(a, b));
    EXPECT_TRUE(SameBits(a, again));
  }
  EXPECT_GT(backend_->stats().graphs_launched, 100u);
  EXPECT_GT(backend_->stats().graphs_captured, 0u);
  EXPECT_EQ(without->stats().graphs_launched, 0u);
}

// One rank alone adds nothing to its sums, but all that several do is done: NCCL joined, its
// all-reduces enqueued and captured, waits that look at the GPU instead of sleeping.
TEST_P(CudaBackendTest, ARankOfNcclComputesTheSameBits) {
  const std::vector<test::Schedule> schedules = {{1, true}, {30, true}};
  std::vector<Logits> without;
  for (const test::Schedule& schedule : schedules) {
    without.push_back(RunSequences(backend_.get(), *model_, prompts_, schedule));
  }
  std::optional<Status> refused;
  test::RunRanks(1, [&](Collective* collective) {
    CudaBackendOptions options;
    options.limits = kLimits;
    options.collective = collective;
    options.rank_patience = std::chrono::seconds(60);
    const auto rank = TryOpenCuda(*model_, options);
    if (!rank.has_value()) {
      refused = rank.error();
      return;
    }
    for (size_t i = 0; i < schedules.size(); ++i) {
      const Logits ours = RunSequences(rank->get(), *model_, prompts_, schedules[i]);
      EXPECT_TRUE(SameBits(ours, without[i]));
    }
    EXPECT_GT((*rank)->stats().graphs_launched, 50u);
  });
  if (!refused.has_value()) return;
  ASSERT_EQ(refused->code(), StatusCode::kFailedPrecondition) << refused->ToString();
  GTEST_SKIP() << refused->ToString();
}

TEST_P(CudaBackendTest, EngramOffAgreesToo) {
  const auto cpu = test::OpenBackend(*model_, 8, kLimits);
  const Logits reference = RunSequences(cpu.get(), *model_, prompts_, {1, true, false});
  const Logits ours = RunSequences(backend_.get(), *model_, prompts_, {20, true, false});
  const Logits decoded = RunSequences(backend_.get(), *model_, prompts_, {1, true, false});
  ASSERT_FALSE(HasFatalFailure());
  EXPECT_LT(WorstError(ours, reference), kErrorMax);
  EXPECT_LT(WorstError(decoded, reference), kErrorMax);
  if (!GetParam().shape.variant.has_value()) return;
  const Logits on = RunSequences(backend_.get(), *model_, prompts_, {1, true, true});
  EXPECT_GT(WorstError(on, decoded), kErrorMax) << "Engram changes nothing";
}

TEST_P(CudaBackendTest, AResetSlotForgetsItsSequence) {
  const std::vector<Prompt> first = {RandomPrompt(model_->shape(), 150, false, 1)};
  const std::vector<Prompt> second = {RandomPrompt(model_->shape(), 20, false, 2)};
  const Logits fresh = RunSequences(backend_.get(), *model_, second, {4, true});
  (void)RunSequences(backend_.get(), *model_, first, {30, true});
  EXPECT_TRUE(SameBits(RunSequences(backend_.get(), *model_, second, {4, true}), fresh));
}

TEST_P(CudaBackendTest, NamesItsGpu) {
  EXPECT_NE(backend_->hardware().find_first_not_of(' '), std::string::npos);
}

TEST_P(CudaBackendTest, OnlyWantedLogitsAreGivenInOrder) {
  const std::vector<TokenId> tokens = {5, 6};
  std::vector<SequenceStep> steps;
  for (uint32_t s = 0; s < 3; ++s) steps.push_back({SequenceSlot(s), 0, tokens, s != 1});
  ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
  const auto vocabulary = static_cast<size_t>(backend_->vocabulary_size());
  ASSERT_EQ(logits_.size(), 2 * vocabulary);
  EXPECT_EQ(std::memcmp(logits_.data(), logits_.data() + vocabulary, vocabulary * 4), 0);
  // In a decode step too, graph or not.
  const std::vector<TokenId> one = {7};
  for (uint32_t round = 0; round < 4; ++round) {
    for (uint32_t s = 0; s < 3; ++s) {
      steps[s] = {SequenceSlot(s), 2 + round, one, s != 1};
    }
    ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
    ASSERT_EQ(logits_.size(), 2 * vocabulary);
    EXPECT_EQ(std::memcmp(logits_.data(), logits_.data() + vocabulary, vocabulary * 4), 0);
  }
  for (SequenceStep& step : steps) {
    step.logits_wanted = false;
    step.position = 6;
  }
  ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
  EXPECT_TRUE(logits_.empty());
}

// The same steps in two slots, once for their logits and once for tokens drawn on the GPU.
TEST_P(CudaBackendTest, TokensAreDrawnFromTheStepsLogits) {
  Sampler sampler;
  const int32_t vocabulary = backend_->vocabulary_size() - 3;
  std::vector<TokenId> tokens = {5, 6, 7};
  for (uint32_t position = 0, round = 0; round < 6; ++round) {
    const std::vector<SequenceStep> steps = {{SequenceSlot(0), position, tokens, true},
                                             {SequenceSlot(1), position, tokens, false},
                                             {SequenceSlot(2), position, tokens, true}};
    const std::vector<SequenceStep> again = {{SequenceSlot(3), position, tokens, true},
                                             {SequenceSlot(4), position, tokens, false},
                                             {SequenceSlot(5), position, tokens, true}};
    ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
    TokenDraw warm;
    warm.params = {0.8f, 20, 0.9f, 17};
    warm.counter = round;
    const std::vector<TokenDraw> draws = {{}, warm};
    std::vector<TokenId> drawn;
    ASSERT_TRUE(backend_->ForwardAndSample(again, nullptr, {draws, vocabulary}, &drawn).ok());
    ASSERT_EQ(drawn.size(), 2u);
    for (size_t i = 0; i < 2; ++i) {
      const auto logits = std::span<const float>(logits_).subspan(
          i * static_cast<size_t>(backend_->vocabulary_size()), static_cast<size_t>(vocabulary));
      EXPECT_EQ(drawn[i], sampler.Sample(logits, draws[i])) << round;
    }
    position += static_cast<uint32_t>(tokens.size());
    tokens = {drawn[0]};
  }
}

TEST_P(CudaBackendTest, BadStepsAreRefusedAndChangeNothing) {
  ASSERT_TRUE(Step(0, 0, {1, 2, 3}).ok());
  EXPECT_THAT(Step(8, 0, {1}).message(), HasSubstr("sequence slot 8"));
  EXPECT_THAT(Step(0, 2, {1}).message(), HasSubstr("expected 3"));
  EXPECT_THAT(Step(1, 0, {600}).message(), HasSubstr("token id 600"));
  EXPECT_THAT(Step(1, 0, std::vector<TokenId>(301, 1)).message(), HasSubstr("at most 300"));
  EXPECT_EQ(backend_->Forward({}, nullptr, &logits_).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(Step(0, 3, {4}).ok());
}

// Gives real rows for the first layer, an error for the second.
class HalfRows final : public EngramRows {
 public:
  explicit HalfRows(TinyRows* rows) : rows_(rows) {}
  Result<std::span<const LayerRows>> Rows(int32_t layer_index) override {
    if (layer_index == 1) return Error(StatusCode::kUnavailable, "node m2 is gone");
    return rows_->Rows(layer_index);
  }

 private:
  TinyRows* rows_;
};

TEST_P(CudaBackendTest, AnErrorOfTheRowsEndsTheStepAndTheSlotNeedsAReset) {
  if (!GetParam().shape.variant.has_value()) GTEST_SKIP() << "a model without Engram";
  const std::vector<TokenId> tokens = {5, 7};
  TokenRun run;
  run.tokens = tokens;
  TinyRows whole(*model_, {&run, 1});
  HalfRows rows(&whole);
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  EXPECT_EQ(backend_->Forward({&step, 1}, &rows, &logits_),
            Status(StatusCode::kUnavailable, "node m2 is gone"));
  EXPECT_THAT(whole.asked(), ElementsAre(0));
  EXPECT_THAT(Step(0, 0, tokens).message(), HasSubstr("reset the slot"));
  backend_->ResetSlot(SequenceSlot(0));
  EXPECT_TRUE(Step(0, 0, tokens).ok());
}

TEST_P(CudaBackendTest, RowsOfAnotherShapeAreAnError) {
  if (!GetParam().shape.variant.has_value()) GTEST_SKIP() << "a model without Engram";
  class NoRows final : public EngramRows {
   public:
    Result<std::span<const LayerRows>> Rows(int32_t) override { return {{&rows_, 1}}; }

   private:
    const std::vector<std::byte> bytes_ = std::vector<std::byte>(7);
    const LayerRows rows_{bytes_, {}, 1};
  } rows;
  const std::vector<TokenId> tokens = {5};
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  const Status status = backend_->Forward({&step, 1}, &rows, &logits_);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("do not belong together"));
}

INSTANTIATE_TEST_SUITE_P(Models, CudaBackendTest, testing::ValuesIn(Cases()),
                         [](const auto& tested) { return std::string(tested.param.name); });

class CudaBackendCreateTest : public GpuTest {
 protected:
  Status Refusal(const TinyModelShape& shape, const CudaBackendOptions& options) {
    const ScratchDir scratch;
    const auto backend = TryOpenCuda(TinyModel::Write(shape, scratch.path()), options);
    return backend.has_value() ? Status() : backend.error();
  }
};

TEST_F(CudaBackendCreateTest, WhatItCannotComputeIsRefusedWithAReason) {
  CudaBackendOptions options;
  options.limits = kLimits;
  TinyModelShape shape;
  shape.head_dim = 20;
  EXPECT_THAT(Refusal(shape, options).message(), HasSubstr("head_dim is 20"));
  shape = {};
  shape.head_dim = 136;
  EXPECT_THAT(Refusal(shape, options).message(), HasSubstr("up to 128"));
  shape = {};
  shape.hidden_size = 68;
  EXPECT_THAT(Refusal(shape, options).message(), HasSubstr("hidden_size is 68"));
  shape = {};
  shape.branch_count = 4;
  EXPECT_THAT(Refusal(shape, options).message(), HasSubstr("4 hyper-connection branches"));
  options.device = 99;
  const Status status = Refusal({}, options);
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.message(), HasSubstr("GPU 99"));
}

TEST_F(CudaBackendCreateTest, MoreMemoryThanTheGpuHasIsAnErrorWithANumber) {
  CudaBackendOptions options;
  options.limits = {60000, 512, 64};
  TinyModelShape shape;
  shape.head_dim = 128;
  shape.kv_head_count = 4;
  shape.layer_count = 64;
  const Status status = Refusal(shape, options);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted) << status.ToString();
  EXPECT_THAT(status.message(), HasSubstr("cache"));
  // The GPU is as usable as before.
  options.limits = kLimits;
  EXPECT_TRUE(Refusal({}, options).ok());
}

TEST_F(CudaBackendCreateTest, AFullKvCacheIsAnErrorThatEndsWithAReset) {
  const ScratchDir scratch;
  const TinyModel model = TinyModel::Write({}, scratch.path());
  CudaBackendOptions options;
  options.limits = kLimits;
  options.limits.kv_tokens_max = 2 * 64;
  auto backend = TryOpenCuda(model, options);
  ASSERT_TRUE(backend.has_value()) << backend.error().ToString();
  const std::vector<TokenId> page(64, 1), one = {1};
  std::vector<float> logits;
  const auto step = [&](uint32_t slot, uint32_t position, const std::vector<TokenId>& tokens) {
    const SequenceStep s{SequenceSlot(slot), position, tokens, true};
    return (*backend)->Forward({&s, 1}, nullptr, &logits);
  };
  ASSERT_TRUE(step(0, 0, page).ok());
  ASSERT_TRUE(step(1, 0, page).ok());
  EXPECT_EQ(step(0, 64, one).code(), StatusCode::kResourceExhausted);
  (*backend)->ResetSlot(SequenceSlot(1));
  EXPECT_TRUE(step(0, 64, one).ok());
}

// More rows than one tile, buckets above 16, and sequences that end at different steps.
TEST_F(CudaBackendCreateTest, ManySequencesShareTheirSteps) {
  const ScratchDir scratch;
  TinyModelShape shape;
  shape.dtype = Dtype::kBf16;
  const TinyModel model = TinyModel::Write(shape, scratch.path());
  constexpr Backend::Limits limits{kManySequences, 100, 300};
  std::vector<Prompt> prompts;
  for (uint32_t p = 0; p < limits.sequences_max; ++p) {
    prompts.push_back(RandomPrompt(shape, 1 + p * 37 % kManyTokens, true, p));
  }
  const auto cpu = test::OpenBackend(model, 8, limits);
  const Logits reference = RunSequences(cpu.get(), model, prompts, {4, true});
  const auto backend = OpenCuda(model, limits);
  for (const uint32_t chunk : {4u, 1u}) {
    const Logits ours = RunSequences(backend.get(), model, prompts, {chunk, true});
    ASSERT_FALSE(HasFatalFailure());
    EXPECT_LT(WorstError(ours, reference), kErrorMax);
  }
  EXPECT_GT(backend->stats().graphs_launched, 50u);
}

TEST_F(CudaBackendCreateTest, DeadPositionsAreRefusedInTheDemoVariant) {
  const ScratchDir scratch;
  TinyModelShape shape;
  shape.variant = Variant::kDemo;
  const TinyModel model = TinyModel::Write(shape, scratch.path());
  const auto backend = OpenCuda(model, kLimits);
  const std::vector<TokenId> tokens = {5};
  TokenRun run;
  run.tokens = tokens;
  TinyRows live(model, {&run, 1});
  class DeadRows final : public EngramRows {
   public:
    explicit DeadRows(const LayerRows& rows) : rows_{rows.rows, dead_, rows.token_count} {}
    Result<std::span<const LayerRows>> Rows(int32_t) override { return {{&rows_, 1}}; }

   private:
    const std::vector<uint8_t> dead_ = {1};
    const LayerRows rows_;
  } rows(live.Rows(0)->front());
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  std::vector<float> logits;
  EXPECT_EQ(backend->Forward({&step, 1}, &rows, &logits).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram::gpu
