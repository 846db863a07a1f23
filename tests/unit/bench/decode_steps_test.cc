#include "bench/decode_steps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TokenSource Counting(int32_t count) {
  const test::ScratchDir scratch;
  nlohmann::json ids = nlohmann::json::array();
  for (int32_t i = 0; i < count; ++i) ids.push_back(i);
  std::ofstream(scratch.path() / "ids.json") << ids;
  return *TokenSource::Open(scratch.path() / "ids.json", 1);
}

TEST(DecodeStepsTest, EachSequenceGoesOnFromAPlaceOfItsOwn) {
  TokenSource tokens = Counting(100);
  DecodeSteps steps({.sequences = 2}, &tokens);
  auto runs = steps.Next();
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_THAT(runs[0].tokens, ElementsAre(0));
  EXPECT_THAT(runs[0].history, IsEmpty());
  EXPECT_THAT(runs[1].tokens, ElementsAre(50));
  runs = steps.Next();
  runs = steps.Next();
  EXPECT_THAT(runs[0].tokens, ElementsAre(2));
  EXPECT_THAT(runs[0].history, ElementsAre(0, 1));
  EXPECT_THAT(runs[1].history, ElementsAre(50, 51));
  EXPECT_EQ(steps.tokens(), 6u);
  EXPECT_EQ(steps.rejected(), 0u);
}

TEST(DecodeStepsTest, RightDraftsAreKeptAndTheFirstWrongOneEndsThem) {
  TokenSource tokens = Counting(1000);
  DecodeSteps all({.sequences = 1, .drafts = 3, .accepted = 1}, &tokens);
  EXPECT_THAT(all.Next()[0].tokens, ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(all.Next()[0].tokens, ElementsAre(4, 5, 6, 7));
  EXPECT_EQ(all.rejected(), 0u);

  DecodeSteps none({.sequences = 1, .drafts = 3, .accepted = 0}, &tokens);
  EXPECT_EQ(none.Next()[0].tokens[0], 0);
  const auto run = none.Next()[0];
  EXPECT_EQ(run.tokens[0], 1);
  EXPECT_THAT(run.history, ElementsAre(0));  // nothing of what was rejected
  EXPECT_EQ(none.rejected(), 6u);

  DecodeSteps half({.sequences = 1, .drafts = 1, .accepted = 0.5, .seed = 3}, &tokens);
  for (int i = 0; i < 1000; ++i) (void)half.Next();
  EXPECT_NEAR(static_cast<double>(half.rejected()), 500, 80);
  EXPECT_EQ(half.tokens(), 2000u);
}

}  // namespace
}  // namespace engram::bench
