#include "tests/sim/simulation.h"

#include <gtest/gtest.h>

namespace engram::sim {
namespace {

TEST(SimulationTest, ASeedReplaysExactly) {
  for (const uint64_t seed : {3u, 4u}) {
    const Outcome first = Simulate({seed, PlantedBug::kNone, false});
    const Outcome again = Simulate({seed, PlantedBug::kNone, false});
    EXPECT_EQ(first.violation, "") << "seed " << seed;
    EXPECT_TRUE(first.figures == again.figures);
    EXPECT_GT(first.figures.faults, 0u);
    EXPECT_GT(first.figures.rows_mapped, 0u);
    EXPECT_LT(first.figures.rows_mapped, first.figures.rows);
    EXPECT_GT(first.figures.checks, 0u);
  }
}

TEST(SimulationTest, SeedsDiffer) {
  EXPECT_NE(Simulate({5, PlantedBug::kNone, false}).figures.steps,
            Simulate({6, PlantedBug::kNone, false}).figures.steps);
}

// The simulator is worth what it finds.
class PlantedBugTest : public testing::TestWithParam<PlantedBug> {};

TEST_P(PlantedBugTest, IsFound) {
  constexpr uint64_t kSeedsMax = 1000;
  for (uint64_t seed = 1; seed <= kSeedsMax; ++seed) {
    const Outcome outcome = Simulate({seed, GetParam(), false});
    if (outcome.violation.empty()) continue;
    // It is the plant that violates: the seed is clean without it.
    EXPECT_EQ(Simulate({seed, PlantedBug::kNone, false}).violation, "") << "seed " << seed;
    return;
  }
  FAIL() << "not found in " << kSeedsMax << " seeds";
}

INSTANTIATE_TEST_SUITE_P(All, PlantedBugTest, testing::ValuesIn(kPlantedBugs),
                         [](const testing::TestParamInfo<PlantedBug>& planted) {
                           std::string name(NameOf(planted.param));
                           for (char& letter : name) {
                             if (letter == '-') letter = '_';
                           }
                           return name;
                         });

}  // namespace
}  // namespace engram::sim
