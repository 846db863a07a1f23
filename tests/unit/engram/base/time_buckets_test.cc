#include "engram/base/time_buckets.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(TimeBucketsTest, BoundsBelongToTheirBucket) {
  EXPECT_EQ(TimeBuckets::BucketOf(0), 0u);
  for (size_t i = 0; i < TimeBuckets::kUpperNs.size(); ++i) {
    EXPECT_EQ(TimeBuckets::BucketOf(TimeBuckets::kUpperNs[i]), i);
    EXPECT_EQ(TimeBuckets::BucketOf(TimeBuckets::kUpperNs[i] + 1), i + 1);
  }
  EXPECT_EQ(TimeBuckets::BucketOf(~uint64_t{0}), TimeBuckets::kCount - 1);
}

TEST(TimeBucketsTest, SumsOfTwoAreAsIfOneHadCountedBoth) {
  TimeBuckets a;
  TimeBuckets b;
  TimeBuckets both;
  for (const uint64_t ns : {7u, 5'000u, 6'000u, 2'000'000'000u}) {
    (ns % 2 == 0 ? a : b).Add(ns);
    both.Add(ns);
  }
  a.Add(b);
  EXPECT_EQ(a.counts, both.counts);
  EXPECT_EQ(a.sum_ns, both.sum_ns);
  EXPECT_EQ(a.count(), 4u);
  EXPECT_EQ(a.counts[0], 2u);
  EXPECT_EQ(a.counts.back(), 1u);
}

TEST(TimeBucketsTest, RecorderCountsTheSame) {
  TimeRecorder recorder;
  TimeBuckets expected;
  TimeBuckets recorded;
  for (uint64_t ns = 1; ns < 10'000'000'000; ns *= 3) {
    recorder.Add(ns);
    expected.Add(ns);
  }
  recorder.AddTo(&recorded);
  EXPECT_EQ(recorded.counts, expected.counts);
  EXPECT_EQ(recorded.sum_ns, expected.sum_ns);
}

}  // namespace
}  // namespace engram
