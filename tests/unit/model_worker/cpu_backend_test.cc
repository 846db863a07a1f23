#include "model_worker/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/reference/sequence_run.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
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

constexpr Backend::Limits kLimits{8, 128, 200};

class CpuBackendTest : public testing::TestWithParam<Variant> {
 protected:
  void SetUp() override {
    TinyModelShape shape;
    shape.variant = GetParam();
    model_.emplace(TinyModel::Write(shape, scratch_.path()));
    backend_ = test::OpenBackend(*model_, 2, kLimits);
    ASSERT_NE(backend_, nullptr);
  }

  Status Step(uint32_t slot, uint32_t position, const std::vector<TokenId>& tokens) {
    const SequenceStep step{SequenceSlot(slot), position, tokens, true};
    return backend_->Forward({&step, 1}, nullptr, &logits_);
  }

  ScratchDir scratch_;
  std::optional<TinyModel> model_;
  std::unique_ptr<Backend> backend_;
  std::vector<float> logits_;
};

// Where both have logits, the bits are the same; they meet somewhere in each prompt.
void ExpectSameBits(const Logits& a, const Logits& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t p = 0; p < a.size(); ++p) {
    size_t met = 0;
    for (size_t t = 0; t < a[p].size(); ++t) {
      if (a[p][t].empty() || b[p][t].empty()) continue;
      ++met;
      EXPECT_EQ(std::memcmp(a[p][t].data(), b[p][t].data(), a[p][t].size() * sizeof(float)), 0)
          << "prompt " << p << ", position " << t;
    }
    EXPECT_GT(met, 0u);
  }
}

TEST_P(CpuBackendTest, BitsDoNotDependOnChunksBatchMatesOrThreads) {
  std::vector<Prompt> prompts;
  for (const uint32_t tokens : {40u, 3u, 17u, 100u, 25u}) {
    prompts.push_back(RandomPrompt(model_->shape(), tokens, GetParam() == Variant::kV41, tokens));
  }
  const Logits alone = RunSequences(backend_.get(), *model_, prompts, {1, false});
  ExpectSameBits(RunSequences(backend_.get(), *model_, prompts, {1, true}), alone);
  ExpectSameBits(RunSequences(backend_.get(), *model_, prompts, {13, true}), alone);
  ExpectSameBits(RunSequences(backend_.get(), *model_, prompts, {128, false}), alone);
  for (const uint32_t threads : {1u, 3u}) {
    const auto other = test::OpenBackend(*model_, threads, kLimits);
    ExpectSameBits(RunSequences(other.get(), *model_, prompts, {16, true}), alone);
  }
}

TEST_P(CpuBackendTest, AResetSlotForgetsItsSequence) {
  const std::vector<Prompt> first = {RandomPrompt(model_->shape(), 30, false, 1)};
  const std::vector<Prompt> second = {RandomPrompt(model_->shape(), 20, false, 2)};
  const Logits fresh = RunSequences(backend_.get(), *model_, second, {4, true});
  (void)RunSequences(backend_.get(), *model_, first, {30, true});
  ExpectSameBits(RunSequences(backend_.get(), *model_, second, {4, true}), fresh);
}

TEST_P(CpuBackendTest, EngramChangesTheLogits) {
  const std::vector<Prompt> prompts = {RandomPrompt(model_->shape(), 9, false, 1)};
  const Logits on = RunSequences(backend_.get(), *model_, prompts, {9, true, true});
  const Logits off = RunSequences(backend_.get(), *model_, prompts, {9, true, false});
  EXPECT_NE(on[0][8], off[0][8]);
}

TEST_P(CpuBackendTest, RowsAreAskedOncePerLayerInLayerOrder) {
  const Prompt prompt = RandomPrompt(model_->shape(), 5, false, 1);
  TokenRun run;
  run.tokens = prompt.ids;
  TinyRows rows(*model_, {&run, 1});
  const SequenceStep step{SequenceSlot(0), 0, prompt.ids, false};
  ASSERT_TRUE(backend_->Forward({&step, 1}, &rows, &logits_).ok());
  EXPECT_THAT(rows.asked(), ElementsAre(0, 1));
  EXPECT_TRUE(logits_.empty());
}

TEST_P(CpuBackendTest, OnlyWantedLogitsAreGivenInOrder) {
  const std::vector<TokenId> tokens = {5, 6};
  std::vector<SequenceStep> steps;
  for (uint32_t s = 0; s < 3; ++s) steps.push_back({SequenceSlot(s), 0, tokens, s != 1});
  ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
  const auto vocabulary = static_cast<size_t>(backend_->vocabulary_size());
  ASSERT_EQ(logits_.size(), 2 * vocabulary);
  EXPECT_EQ(std::memcmp(logits_.data(), logits_.data() + vocabulary, vocabulary * 4), 0);
}

TEST_P(CpuBackendTest, TokensAreDrawnFromTheStepsLogits) {
  const std::vector<TokenId> tokens = {5, 6};
  std::vector<SequenceStep> steps;
  for (uint32_t s = 0; s < 3; ++s) steps.push_back({SequenceSlot(s), 0, tokens, s != 1});
  ASSERT_TRUE(backend_->Forward(steps, nullptr, &logits_).ok());
  for (const SequenceStep& step : steps) backend_->ResetSlot(step.slot);
  TokenDraw warm;
  warm.params = {0.8f, 20, 0.9f, 17};
  const std::vector<TokenDraw> draws = {{}, warm};
  // A vocabulary that lacks what would be drawn greedily from all.
  const auto highest =
      std::max_element(logits_.begin(), logits_.begin() + backend_->vocabulary_size());
  const auto vocabulary = std::max<int32_t>(1, static_cast<int32_t>(highest - logits_.begin()));
  std::vector<TokenId> drawn;
  ASSERT_TRUE(backend_->ForwardAndSample(steps, nullptr, {draws, vocabulary}, &drawn).ok());
  ASSERT_EQ(drawn.size(), 2u);
  Sampler sampler;
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_LT(drawn[i], vocabulary);
    const auto logits = std::span<const float>(logits_).subspan(
        i * static_cast<size_t>(backend_->vocabulary_size()), static_cast<size_t>(vocabulary));
    EXPECT_EQ(drawn[i], sampler.Sample(logits, draws[i]));
  }
}

class FailingRows final : public EngramRows {
 public:
  Result<std::span<const LayerRows>> Rows(int32_t layer_index) override {
    if (layer_index == 1) return Error(StatusCode::kUnavailable, "node m2 is gone");
    return {{&empty_, 1}};
  }

 private:
  const LayerRows empty_;
};

TEST_P(CpuBackendTest, RowsOfAnotherShapeAreAnError) {
  FailingRows rows;
  const std::vector<TokenId> tokens = {5};
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  const Status status = backend_->Forward({&step, 1}, &rows, &logits_);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("Engram layer 1"));
}

TEST_P(CpuBackendTest, RowIdsAreRefusedSinceItHasNoTables) {
  const std::vector<TokenId> tokens = {5};
  TokenRun run;
  run.tokens = tokens;
  TinyRows ids(*model_, {&run, 1}, /*only_ids=*/true);
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  const Status status = backend_->Forward({&step, 1}, &ids, &logits_);
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_THAT(status.message(), HasSubstr("no tables"));
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

TEST_P(CpuBackendTest, AnErrorOfTheRowsEndsTheStepAndTheSlotNeedsAReset) {
  const std::vector<TokenId> tokens = {5, 7};
  TokenRun run;
  run.tokens = tokens;
  TinyRows whole(*model_, {&run, 1});
  HalfRows rows(&whole);
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  const Status status = backend_->Forward({&step, 1}, &rows, &logits_);
  EXPECT_EQ(status, Status(StatusCode::kUnavailable, "node m2 is gone"));
  EXPECT_THAT(Step(0, 0, tokens).message(), HasSubstr("reset the slot"));
  backend_->ResetSlot(SequenceSlot(0));
  EXPECT_TRUE(Step(0, 0, tokens).ok());
}

TEST_P(CpuBackendTest, BadStepsAreRefusedAndChangeNothing) {
  ASSERT_TRUE(Step(0, 0, {1, 2, 3}).ok());
  EXPECT_THAT(Step(8, 0, {1}).message(), HasSubstr("sequence slot 8"));
  EXPECT_THAT(Step(0, 2, {1}).message(), HasSubstr("expected 3"));
  EXPECT_THAT(Step(1, 1, {1}).message(), HasSubstr("expected 0"));
  EXPECT_THAT(Step(1, 0, {}).message(), HasSubstr("no tokens"));
  EXPECT_THAT(Step(1, 0, {600}).message(), HasSubstr("token id 600"));
  EXPECT_THAT(Step(1, 0, {-1}).message(), HasSubstr("token id -1"));
  EXPECT_THAT(Step(1, 0, std::vector<TokenId>(129, 1)).message(), HasSubstr("at most 128"));
  const std::vector<TokenId> tokens(101, 1);
  const std::vector<SequenceStep> large = {{SequenceSlot(1), 0, tokens, false},
                                           {SequenceSlot(2), 0, tokens, false}};
  EXPECT_THAT(backend_->Forward(large, nullptr, &logits_).message(), HasSubstr("at most 200"));
  const std::vector<TokenId> one = {1};
  const std::vector<SequenceStep> twice = {{SequenceSlot(1), 0, one, false},
                                           {SequenceSlot(1), 0, one, false}};
  EXPECT_THAT(backend_->Forward(twice, nullptr, &logits_).message(), HasSubstr("twice"));
  EXPECT_EQ(backend_->Forward({}, nullptr, &logits_).code(), StatusCode::kInvalidArgument);
  EXPECT_TRUE(Step(0, 3, {4}).ok());
}

TEST_P(CpuBackendTest, ACheckpointWithMoreBranchesIsRefused) {
  const ScratchDir scratch;
  TinyModelShape shape;
  shape.variant = GetParam();
  shape.branch_count = 4;
  (void)TinyModel::Write(shape, scratch.path());
  const auto config = ReadModelConfig(scratch.path());
  auto weights = LoadWeights(scratch.path(), *config);
  ASSERT_TRUE(weights.has_value()) << weights.error().ToString();
  CpuBackendOptions options;
  options.limits = kLimits;
  const auto backend = CreateCpuBackend(*config, *std::move(weights), options);
  ASSERT_FALSE(backend.has_value());
  EXPECT_EQ(backend.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(backend.error().message(), HasSubstr("4 hyper-connection branches"));
}

TEST_P(CpuBackendTest, LimitsAreCheckedWhenOpened) {
  const auto config = ReadModelConfig(model_->dir());
  const auto open = [&](const Backend::Limits& limits, uint32_t threads) {
    CpuBackendOptions options{limits, threads};
    return CreateCpuBackend(*config, *LoadWeights(model_->dir(), *config), options)
        .error()
        .message();
  };
  EXPECT_THAT(open({0, 1, 1}, 1), HasSubstr("at least 1"));
  EXPECT_THAT(open({1, 513, 1}, 1), HasSubstr("max_position_embeddings is 512"));
  EXPECT_THAT(open(kLimits, 0), HasSubstr("threads = 0"));
}

INSTANTIATE_TEST_SUITE_P(Variants, CpuBackendTest, testing::Values(Variant::kV41, Variant::kDemo),
                         [](const auto& tested) {
                           return std::string(tested.param == Variant::kV41 ? "V41" : "Demo");
                         });

TEST(CpuBackendDeadTokensTest, DeadPositionsAreRefusedInTheDemoVariant) {
  const ScratchDir scratch;
  TinyModelShape shape;
  shape.variant = Variant::kDemo;
  const TinyModel model = TinyModel::Write(shape, scratch.path());
  const auto backend = test::OpenBackend(model, 1, kLimits);
  const std::vector<TokenId> tokens = {5};
  TokenRun run;
  run.tokens = tokens;
  class DeadRows final : public EngramRows {
   public:
    explicit DeadRows(const LayerRows& rows) : rows_{rows.rows, dead_, rows.token_count} {}
    Result<std::span<const LayerRows>> Rows(int32_t) override { return {{&rows_, 1}}; }

   private:
    const std::vector<uint8_t> dead_ = {1};
    const LayerRows rows_;
  };
  TinyRows live(model, {&run, 1});
  DeadRows rows(live.Rows(0)->front());
  const SequenceStep step{SequenceSlot(0), 0, tokens, true};
  std::vector<float> logits;
  EXPECT_EQ(backend->Forward({&step, 1}, &rows, &logits).code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
