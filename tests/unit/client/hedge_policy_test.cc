#include "client/hedge_policy.h"

#include <algorithm>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;
using std::chrono::nanoseconds;

TEST(ReadTimesTest, P99IsNeverTooLowAndAtMostAQuarterTooHigh) {
  std::mt19937_64 random(1);
  for (const double spread : {0.1, 1.0, 2.0}) {
    std::lognormal_distribution<> took_us(5.0, spread);
    ReadTimes times;
    std::vector<Duration> all;
    for (int i = 0; i < 1600; ++i) {  // a multiple of the samples between two refreshes
      all.emplace_back(nanoseconds(static_cast<int64_t>(1000 * took_us(random))));
      times.Add(all.back());
    }
    std::sort(all.begin(), all.end());
    const Duration exact = all[1600 - 1600 / 100 - 1];
    EXPECT_GE(times.p99(), exact);
    EXPECT_LE(times.p99(), std::max<Duration>(exact + exact / 4, microseconds(2)));
  }
}

TEST(ReadTimesTest, FewSamplesSayNothing) {
  ReadTimes times;
  for (uint32_t i = 1; i < ReadTimes::kSamplesMin; ++i) times.Add(milliseconds(1));
  EXPECT_EQ(times.p99(), Duration());
  times.Add(milliseconds(1));
  EXPECT_GE(times.p99(), milliseconds(1));
}

TEST(ReadTimesTest, OldSamplesAreForgotten) {
  ReadTimes times;
  for (int i = 0; i < 5000; ++i) times.Add(milliseconds(20));
  for (int i = 0; i < 20000; ++i) times.Add(microseconds(100));
  EXPECT_LE(times.p99(), microseconds(130));
  EXPECT_LE(times.samples(), ReadTimes::kSamplesMax);
}

TEST(ReadTimesTest, AnyDurationHasABucket) {
  ReadTimes times;
  for (uint32_t i = 0; i < ReadTimes::kSamplesMin; ++i) {
    times.Add(Duration(-5));
    times.Add(Duration::zero());
    times.Add(Duration::max());
  }
  EXPECT_GT(times.p99(), std::chrono::seconds(17));
}

TEST(HedgePolicyTest, LateIsTwiceTheP99WithinItsBounds) {
  HedgePolicy policy({});
  EXPECT_EQ(policy.LateAfter(100), milliseconds(50)) << "nothing known yet";
  for (int i = 0; i < 100; ++i) policy.OnReadAnswered(100, microseconds(50));
  EXPECT_EQ(policy.LateAfter(100), milliseconds(1));
  for (int i = 0; i < 20000; ++i) policy.OnReadAnswered(100, milliseconds(4));
  EXPECT_GE(policy.LateAfter(100), milliseconds(8));
  EXPECT_LE(policy.LateAfter(100), milliseconds(10));
  EXPECT_EQ(policy.HangsAfter(100), milliseconds(50));
  for (int i = 0; i < 20000; ++i) policy.OnReadAnswered(100, milliseconds(300));
  EXPECT_EQ(policy.LateAfter(100), milliseconds(50));
  EXPECT_EQ(policy.HangsAfter(100), milliseconds(200));
}

TEST(HedgePolicyTest, SmallAndLargeReadsAreToldApart) {
  HedgePolicy policy({});
  for (int i = 0; i < 1000; ++i) {
    policy.OnReadAnswered(4, microseconds(100));
    policy.OnReadAnswered(1024, milliseconds(10));
    policy.OnReadAnswered(4096, milliseconds(20));
  }
  EXPECT_EQ(policy.LateAfter(1), milliseconds(1));
  EXPECT_EQ(policy.LateAfter(16), milliseconds(1));
  EXPECT_EQ(policy.LateAfter(17), milliseconds(50)) << "no read of this size was seen";
  EXPECT_GE(policy.LateAfter(257), milliseconds(20));
  EXPECT_GE(policy.LateAfter(1025), milliseconds(40));
}

TEST(HedgePolicyTest, OneReadInTwentyIsHedgedAfterTheFirstBurst) {
  HedgePolicy policy({});
  uint32_t hedges = 0;
  constexpr uint32_t kReads = 10'000;
  for (uint32_t i = 0; i < kReads; ++i) {
    policy.OnReadPosted();
    if (!policy.MayHedge()) continue;
    policy.SpendHedge();
    ++hedges;
  }
  EXPECT_EQ(hedges, kReads / 20 + 8 - 1);  // the first read found the bucket full
}

TEST(HedgePolicyTest, NoBudgetMeansNoHedges) {
  HedgePolicy policy({.reads_per_hedge = 0});
  for (int i = 0; i < 1000; ++i) policy.OnReadPosted();
  EXPECT_FALSE(policy.enabled());
  EXPECT_FALSE(policy.MayHedge());
}

}  // namespace
}  // namespace engram
