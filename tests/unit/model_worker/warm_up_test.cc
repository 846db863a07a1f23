#include "model_worker/warm_up.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/model_config.h"
#include "tests/reference/sequence_run.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

using testing::ElementsAre;

// Notes what it is asked to compute; fails as told.
class NotingBackend final : public Backend {
 public:
  explicit NotingBackend(const Limits& limits) : limits_(limits), held_(limits.sequences_max) {}

  [[nodiscard]] const Limits& limits() const override { return limits_; }
  [[nodiscard]] int32_t vocabulary_size() const override { return 1; }
  [[nodiscard]] uint64_t parameters_non_embedding() const override { return 0; }
  [[nodiscard]] std::string hardware() const override { return "a fake"; }
  void ResetSlot(SequenceSlot slot) override { held_[slot.value()] = 0; }

  [[nodiscard]] Status Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                               std::vector<float>* logits) override {
    logits->assign(steps.size(), 0.0f);
    size_t tokens = 0;
    for (const SequenceStep& step : steps) {
      EXPECT_EQ(held_[step.slot.value()], step.position);
      held_[step.slot.value()] += step.tokens.size();
      EXPECT_LE(step.tokens.size(), limits_.sequence_tokens_max);
      tokens += step.tokens.size();
    }
    EXPECT_LE(tokens, limits_.step_tokens_max);
    if (engram != nullptr) {
      const LayerRows rows = engram->Rows(0)->front();
      EXPECT_EQ(rows.token_count, tokens);
      EXPECT_EQ(rows.rows.size(), tokens * 3 * 10);
      EXPECT_TRUE(std::ranges::all_of(rows.rows, [](std::byte b) { return b == std::byte{0}; }));
    }
    computed.emplace_back(steps.size(), tokens);
    return tokens == fails_at ? fails_with : Status();
  }

  [[nodiscard]] bool Holds() const {
    return std::ranges::any_of(held_, [](uint64_t tokens) { return tokens != 0; });
  }

  std::vector<std::pair<size_t, size_t>> computed;  // sequences, tokens
  size_t fails_at = 0;
  Status fails_with;

 private:
  const Limits limits_;
  std::vector<uint64_t> held_;  // [slots] tokens
};

using Step = std::pair<size_t, size_t>;

TEST(WarmUpTest, ComputesAStepOfEachSizeAndLeavesNothingBehind) {
  NotingBackend backend({4, 6, 20});
  ASSERT_TRUE(WarmUp(&backend, WarmUpRows{3, 10}).ok());
  EXPECT_THAT(backend.computed, ElementsAre(Step{4, 20}, Step{2, 10}, Step{1, 5}, Step{1, 2},
                                            Step{2, 2}, Step{1, 1}, Step{1, 1}));
  EXPECT_FALSE(backend.Holds());
}

TEST(WarmUpTest, AStepLargerThanAllSlotsIsNotTried) {
  NotingBackend backend({1, 4, 4096});
  ASSERT_TRUE(WarmUp(&backend, std::nullopt).ok());
  EXPECT_THAT(backend.computed, ElementsAre(Step{1, 4}, Step{1, 2}, Step{1, 1}, Step{1, 1}));
}

TEST(WarmUpTest, ASizeWithoutMemoryIsLeftOutAndOtherErrorsEndIt) {
  NotingBackend backend({8, 8, 8});
  backend.fails_at = 8;
  backend.fails_with = Status(StatusCode::kResourceExhausted, "the KV cache is full");
  EXPECT_TRUE(WarmUp(&backend, std::nullopt).ok());
  EXPECT_EQ(backend.computed.size(), 8u);
  EXPECT_FALSE(backend.Holds());
  backend.fails_with = Status(StatusCode::kInternal, "no GPU any more");
  EXPECT_EQ(WarmUp(&backend, std::nullopt).code(), StatusCode::kInternal);
  EXPECT_FALSE(backend.Holds());
}

class WarmUpModelTest : public testing::TestWithParam<Variant> {};

TEST_P(WarmUpModelTest, ChangesNoBitOfWhatFollows) {
  const test::ScratchDir scratch;
  test::TinyModelShape shape;
  shape.variant = GetParam();
  const test::TinyModel model = test::TinyModel::Write(shape, scratch.path());
  const Backend::Limits limits{4, 64, 100};
  const std::vector<test::Prompt> prompts = {test::RandomPrompt(shape, 40, false, 1),
                                             test::RandomPrompt(shape, 9, false, 2)};
  const auto cold = test::OpenBackend(model, 2, limits);
  const auto warm = test::OpenBackend(model, 2, limits);
  const auto config = ReadModelConfig(model.dir());
  ASSERT_TRUE(config.has_value());
  const auto columns = static_cast<uint32_t>(config->engram_columns());
  TokenRun token;
  token.tokens = std::span(prompts[0].ids).first(1);
  const auto row_bytes = static_cast<uint32_t>(model.Rows(0, {&token, 1}).size()) / columns;
  ASSERT_TRUE(WarmUp(warm.get(), WarmUpRows{columns, row_bytes}).ok());
  EXPECT_EQ(test::RunSequences(warm.get(), model, prompts, {7, true}),
            test::RunSequences(cold.get(), model, prompts, {7, true}));
}

INSTANTIATE_TEST_SUITE_P(Variants, WarmUpModelTest, testing::Values(Variant::kDemo, Variant::kV41),
                         [](const auto& variant) {
                           return std::string(variant.param == Variant::kDemo ? "Demo" : "V41");
                         });

}  // namespace
}  // namespace engram
