#include "bench/latency_histogram.h"

#include <random>

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

using std::chrono::duration_cast;
using std::chrono::microseconds;
using std::chrono::nanoseconds;
using std::chrono::seconds;

TEST(LatencyHistogramTest, APercentileIsTheSamplesOwnToABin) {
  LatencyHistogram histogram;
  EXPECT_EQ(histogram.PercentileUs(0.5), 0);
  std::mt19937_64 random(1);
  std::lognormal_distribution<double> took(std::log(80.0), 1.0);
  std::vector<double> samples;
  for (int i = 0; i < 20'000; ++i) {
    const auto ns = nanoseconds(static_cast<int64_t>(1e3 * took(random)));
    samples.push_back(1e-3 * static_cast<double>(ns.count()));
    histogram.Add(ns);
  }
  std::sort(samples.begin(), samples.end());
  for (const double fraction : {0.01, 0.5, 0.9, 0.99, 0.999}) {
    const double exact =
        samples[static_cast<size_t>(std::ceil(fraction * static_cast<double>(samples.size()))) - 1];
    EXPECT_GE(histogram.PercentileUs(fraction), exact) << fraction;
    EXPECT_LE(histogram.PercentileUs(fraction), exact * 1.017) << fraction;
  }
}

TEST(LatencyHistogramTest, AMergeIsWhatOneWouldHaveSeen) {
  LatencyHistogram one;
  LatencyHistogram other;
  LatencyHistogram both;
  for (int i = 1; i < 1000; ++i) {
    (i % 3 == 0 ? one : other).Add(microseconds(i * i));
    both.Add(microseconds(i * i));
  }
  one.Merge(other);
  EXPECT_EQ(one.count(), both.count());
  EXPECT_EQ(one.ToJson(), both.ToJson());
}

TEST(LatencyHistogramTest, WhatIsOutOfRangeIsCountedAtItsEnds) {
  LatencyHistogram histogram;
  histogram.Add(nanoseconds(1));
  EXPECT_DOUBLE_EQ(histogram.PercentileUs(1), 0.1);
  histogram.Add(seconds(1000));
  EXPECT_DOUBLE_EQ(histogram.PercentileUs(1), 1e8);
  EXPECT_EQ(histogram.count(), 2u);
  const Series cumulative = histogram.Cumulative("both");
  ASSERT_EQ(cumulative.points.size(), 2u);
  EXPECT_DOUBLE_EQ(cumulative.points.front().y, 0.5);
  EXPECT_DOUBLE_EQ(cumulative.points.back().x, 100);
  EXPECT_EQ(cumulative.points.back().y, 1.0);
}

TEST(LatencyHistogramTest, TheShareUpToABound) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 100; ++i) histogram.Add(microseconds(10 * i));
  EXPECT_NEAR(histogram.ShareUpTo(microseconds(505)), 0.5, 0.01);
  EXPECT_EQ(histogram.ShareUpTo(seconds(1)), 1.0);
}

TEST(LatencyHistogramTest, JsonComesBackAndRubbishDoesNot) {
  LatencyHistogram histogram;
  for (int i = 0; i < 100; ++i) histogram.Add(microseconds(i));
  const auto read = LatencyHistogram::FromJson(histogram.ToJson());
  ASSERT_TRUE(read.has_value());
  EXPECT_EQ(read->ToJson(), histogram.ToJson());
  EXPECT_EQ(read->count(), 100u);
  for (const char* rubbish : {"{}", "[1]", "[[1]]", "[[1, -1]]", "[[99999, 1]]", "[[-2, 1]]",
                              "[[0.5, 1]]", "[[1, 2, 3]]"}) {
    EXPECT_FALSE(LatencyHistogram::FromJson(nlohmann::json::parse(rubbish)).has_value()) << rubbish;
  }
}

}  // namespace
}  // namespace engram::bench
