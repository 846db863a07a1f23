#include "model_worker/statistics.h"

#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(StatisticsTest, PercentilesInterpolateLikeNumpy) {
  const std::vector<double> samples = {4, 1, 3, 2};
  EXPECT_DOUBLE_EQ(Percentile(samples, 0.0), 1.0);
  EXPECT_DOUBLE_EQ(Percentile(samples, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(Percentile(samples, 0.99), 3.97);
  EXPECT_DOUBLE_EQ(Percentile(samples, 1.0), 4.0);
  EXPECT_DOUBLE_EQ(Percentile({}, 0.5), 0.0);
}

TEST(StatisticsTest, MedianIntervalTakesTheRanksOfTheBinomialTable) {
  // Published ranks for 95 %: n = 6: 1 and 6 (96.9 %); n = 11: 2 and 10 (98.8 %); n = 21: 6 and 16
  // (97.3 %).
  const auto upto = [](int n) {
    std::vector<double> samples;
    for (int i = n; i >= 1; --i) samples.push_back(i);
    return samples;
  };
  const auto six = MedianInterval95(upto(6));
  EXPECT_EQ(six.low, 1);
  EXPECT_EQ(six.high, 6);
  EXPECT_NEAR(six.coverage, 0.96875, 1e-9);
  const auto eleven = MedianInterval95(upto(11));
  EXPECT_EQ(eleven.low, 2);
  EXPECT_EQ(eleven.high, 10);
  EXPECT_NEAR(eleven.coverage, 0.98828125, 1e-9);
  const auto twenty_one = MedianInterval95(upto(21));
  EXPECT_EQ(twenty_one.low, 6);
  EXPECT_EQ(twenty_one.high, 16);
  EXPECT_NEAR(twenty_one.coverage, 0.9734, 1e-4);
}

TEST(StatisticsTest, TooFewSamplesGiveTheirRangeAndSayWhatItIsWorth) {
  const std::vector<double> three = {2, 9, 5};
  const auto interval = MedianInterval95(three);
  EXPECT_EQ(interval.low, 2);
  EXPECT_EQ(interval.high, 9);
  EXPECT_DOUBLE_EQ(interval.coverage, 0.75);
  const std::vector<double> one = {7};
  EXPECT_EQ(MedianInterval95(one).low, 7);
  EXPECT_EQ(MedianInterval95(one).high, 7);
  EXPECT_DOUBLE_EQ(MedianInterval95(one).coverage, 0.0);
}

}  // namespace
}  // namespace engram
