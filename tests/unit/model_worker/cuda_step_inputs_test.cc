#include <random>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/step_inputs.h"

namespace engram::gpu {
namespace {

using testing::ElementsAre;

struct Filled {
  StepCounts counts;
  StepOffsets at;
  std::vector<int32_t> ints;
  [[nodiscard]] std::vector<int32_t> Array(size_t offset, size_t count) const {
    const auto begin = ints.begin() + static_cast<ptrdiff_t>(offset);
    return {begin, begin + static_cast<ptrdiff_t>(count)};
  }
};

Filled Fill(const std::vector<SequenceStep>& steps, const std::vector<PageEntry>& entries) {
  Filled filled;
  filled.counts = CountStep(steps, entries.size(), 2);
  filled.at = PlaceStep(filled.counts);
  filled.ints.assign(filled.at.int_count, 12345);
  FillStep(steps, entries, filled.counts, filled.ints.data());
  return filled;
}

TEST(StepInputsTest, AMixedStepHasTilesForPrefillAndRowsForDecode) {
  const std::vector<TokenId> prompt(70, 9), one = {5};
  const std::vector<SequenceStep> steps = {{SequenceSlot(3), 10, prompt, true},
                                           {SequenceSlot(0), 300, one, false}};
  const Filled f = Fill(steps, {{8, 1}});
  EXPECT_EQ(f.counts.tokens, 71u);
  EXPECT_EQ(f.counts.rows, 80u);
  EXPECT_FALSE(f.counts.uniform_decode);
  EXPECT_EQ(f.counts.splits, (DecodeSplits{4, 128}));
  EXPECT_THAT(f.Array(f.at.tile_rows, 2), ElementsAre(0, 64));
  EXPECT_THAT(f.Array(f.at.tile_lengths, 2), ElementsAre(64, 6));
  EXPECT_THAT(f.Array(f.at.decode_rows, 1), ElementsAre(70));
  EXPECT_THAT(f.Array(f.at.logit_rows, 1), ElementsAre(69));
  EXPECT_THAT(f.Array(f.at.part_slots, 2), ElementsAre(3, 0));
  EXPECT_THAT(f.Array(f.at.part_begins, 2), ElementsAre(0, 70));
  EXPECT_THAT(f.Array(f.at.part_lengths, 2), ElementsAre(70, 1));
  EXPECT_THAT(f.Array(f.at.positions + 68, 4), ElementsAre(78, 79, 300, -1));
  EXPECT_THAT(f.Array(f.at.slots + 68, 4), ElementsAre(3, 3, 0, -1));
  EXPECT_THAT(f.Array(f.at.row_parts + 68, 4), ElementsAre(0, 0, 1, -1));
  EXPECT_THAT(f.Array(f.at.tokens + 68, 4), ElementsAre(9, 9, 5, -1));
  EXPECT_THAT(f.Array(f.at.page_indices, 1), ElementsAre(8));
  EXPECT_THAT(f.Array(f.at.page_values, 1), ElementsAre(1));
}

TEST(StepInputsTest, DecodeStepsOfOneBucketHaveOneLayout) {
  const std::vector<TokenId> one = {5};
  std::vector<SequenceStep> three, four;
  for (uint32_t s = 0; s < 4; ++s) four.push_back({SequenceSlot(s), 7, one, s != 1});
  three.assign(four.begin(), four.begin() + 3);
  const Filled few = Fill(three, {});
  const Filled many = Fill(four, {{1, 2}});
  EXPECT_TRUE(few.counts.uniform_decode && many.counts.uniform_decode);
  EXPECT_EQ(few.at.int_count, many.at.int_count);
  EXPECT_EQ(few.at.page_values, many.at.page_values);
  EXPECT_THAT(few.Array(few.at.decode_rows, 4), ElementsAre(0, 1, 2, -1));
  EXPECT_THAT(few.Array(few.at.logit_rows, 4), ElementsAre(0, 2, -1, -1));
  EXPECT_THAT(few.Array(few.at.part_slots, 4), ElementsAre(0, 1, 2, -1));
  EXPECT_THAT(few.Array(few.at.part_lengths, 4), ElementsAre(1, 1, 1, 0));
  EXPECT_THAT(few.Array(few.at.page_indices, 4), ElementsAre(-1, -1, -1, -1));
}

TEST(StepInputsTest, ADecodeStepWithoutLogitsIsNotUniform) {
  const std::vector<TokenId> one = {5};
  const std::vector<SequenceStep> steps = {{SequenceSlot(0), 7, one, false}};
  const StepCounts counts = CountStep(steps, 0, 2);
  EXPECT_FALSE(counts.uniform_decode);
  EXPECT_EQ(counts.logits, 0u);
}

TEST(StepInputsTest, EveryStepWithinTheLimitsFitsTheBuffer) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    Backend::Limits limits;
    limits.sequences_max = 1 + static_cast<uint32_t>(random() % 40);
    limits.sequence_tokens_max = 2000;
    limits.step_tokens_max = 1 + static_cast<uint32_t>(random() % 700);
    const std::vector<TokenId> tokens(limits.step_tokens_max, 1);
    std::vector<SequenceStep> steps;
    uint32_t left = limits.step_tokens_max;
    size_t pages = 0;
    for (uint32_t s = 0; s < limits.sequences_max && left > 0; ++s) {
      const uint32_t count = random() % 3 == 0 ? 1 + static_cast<uint32_t>(random() % left) : 1;
      steps.push_back({SequenceSlot(s), 63, std::span(tokens).first(count), random() % 2 == 0});
      pages += PagesFor(63 + count) - 1;
      left -= count;
    }
    ASSERT_LE(PlaceStep(CountStep(steps, pages, 2)).int_count, StepIntsMax(limits));
  }
}

}  // namespace
}  // namespace engram::gpu
