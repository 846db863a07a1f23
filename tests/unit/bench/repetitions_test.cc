#include "bench/repetitions.h"

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

TEST(RepetitionsTest, MedianIsTheMiddleValueOrTheMeanOfTheMiddleTwo) {
  EXPECT_EQ(SpreadOf({3}).median, 3);
  EXPECT_EQ(SpreadOf({5, 1, 3}).median, 3);
  EXPECT_EQ(SpreadOf({4, 1, 3, 100}).median, 3.5);
  EXPECT_EQ(SpreadOf({4, 1, 3, 100}).least, 1);
  EXPECT_EQ(SpreadOf({4, 1, 3, 100}).most, 100);
}

TEST(RepetitionsTest, CpuTimeNeverGoesBack) {
  const double before = ThreadCpuSeconds();
  EXPECT_GE(ThreadCpuSeconds(), before);
}

}  // namespace
}  // namespace engram::bench
