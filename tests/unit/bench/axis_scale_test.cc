#include "bench/axis_scale.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram::bench {
namespace {

using testing::ElementsAre;

TEST(AxisScaleTest, LinearTicksAreRoundAndEncloseTheValues) {
  const AxisScale axis = AxisScale::Over(Scale::kLinear, 0, 5.31e6, 6, true);
  EXPECT_EQ(axis.low(), 0);
  EXPECT_GE(axis.high(), 5.31e6);
  EXPECT_THAT(axis.Labels(1e6), ElementsAre("0", "2", "4", "6"));
  EXPECT_EQ(axis.Place(0), 0);
  EXPECT_DOUBLE_EQ(axis.Place(3e6), 0.5);
}

TEST(AxisScaleTest, LinearLabelsHaveTheSameDecimals) {
  EXPECT_THAT(AxisScale::Over(Scale::kLinear, 0, 1, 6, true).Labels(1),
              ElementsAre("0.0", "0.2", "0.4", "0.6", "0.8", "1.0"));
  EXPECT_THAT(AxisScale::Over(Scale::kLinear, -0.4, 0.5, 6, true).Labels(1),
              ElementsAre("-0.4", "-0.2", "0.0", "0.2", "0.4", "0.6"));
}

TEST(AxisScaleTest, Log2TicksArePowersOfTwo) {
  const AxisScale all = AxisScale::Over(Scale::kLog2, 1, 32, 8, false);
  EXPECT_THAT(all.Labels(1), ElementsAre("1", "2", "4", "8", "16", "32"));
  EXPECT_DOUBLE_EQ(all.Place(8), 0.6);
  const AxisScale some = AxisScale::Over(Scale::kLog2, 1, 4096, 8, false);
  EXPECT_THAT(some.Labels(1), ElementsAre("1", "4", "16", "64", "256", "1,024", "4,096"));
}

TEST(AxisScaleTest, Log10TicksAreDecadesOrOneTwoFive) {
  EXPECT_THAT(AxisScale::Over(Scale::kLog10, 33e-6, 6e-3, 6, true).Labels(1e-6),
              ElementsAre("10", "100", "1,000", "10,000"));
  EXPECT_THAT(AxisScale::Over(Scale::kLog10, 12, 90, 6, true).Labels(1),
              ElementsAre("10", "20", "50", "100"));
  EXPECT_THAT(AxisScale::Over(Scale::kLog10, 1, 1e9, 4, true).Labels(1),
              ElementsAre("1", "1,000", "1M", "1G"));
}

TEST(AxisScaleTest, AnyValuesGiveAFewTicksAndPlacesInTheAxis) {
  const double values[] = {-1e30, -3, 0, 1e-30, 1e-9, 0.1, 1, 1 + 1e-15, 7, 1e6, 1e15, 1e30};
  for (const Scale scale : {Scale::kLinear, Scale::kLog2, Scale::kLog10}) {
    for (const double low : values) {
      for (const double high : values) {
        if (low > high || !HasPlace(scale, low)) continue;
        for (const bool rounded : {false, true}) {
          const AxisScale axis = AxisScale::Over(scale, low, high, 6, rounded);
          EXPECT_LE(axis.ticks().size(), 16u) << low << " " << high;
          EXPECT_EQ(axis.Labels(1).size(), axis.ticks().size());
          for (const double value : {low, high}) {
            EXPECT_GE(axis.Place(value), -1e-6) << low << " " << high;
            EXPECT_LE(axis.Place(value), 1 + 1e-6) << low << " " << high;
          }
        }
      }
    }
  }
}

TEST(AxisScaleTest, LogScalesHaveNoPlaceForZeroAndNoScaleForNan) {
  EXPECT_TRUE(HasPlace(Scale::kLinear, -1));
  EXPECT_FALSE(HasPlace(Scale::kLinear, std::nan("")));
  EXPECT_FALSE(HasPlace(Scale::kLog2, 0));
  EXPECT_FALSE(HasPlace(Scale::kLog10, -1));
}

}  // namespace
}  // namespace engram::bench
