#include "shard_server/byte_rate.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(ByteRateTest, WithoutABoundEverythingGoesAtOnce) {
  ByteRate rate;
  ManualClock clock;
  MonotonicTime again;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(rate.Take(1 << 30, clock.Now(), &again));
}

TEST(ByteRateTest, OverALongTimeNoMoreGoesThanTheBoundAllows) {
  ByteRate rate;
  ManualClock clock;
  rate.SetMax(1'000'000, clock.Now());
  uint64_t gone = 0;
  const MonotonicTime start = clock.Now();
  while (clock.Now() < start + seconds(10)) {
    MonotonicTime again = clock.Now();
    if (rate.Take(30'000, clock.Now(), &again)) {
      gone += 30'000;
    } else {
      ASSERT_GT(again, clock.Now());
      clock.Advance(again - clock.Now());
    }
  }
  EXPECT_LE(gone, 10'000'000u + 50'000u + 30'000u);
  EXPECT_GE(gone, 10'000'000u - 30'000u);
}

TEST(ByteRateTest, PieceLargerThanTheBurstGoesAndIsOwed) {
  ByteRate rate;
  ManualClock clock;
  rate.SetMax(1'000'000, clock.Now());
  MonotonicTime again;
  EXPECT_TRUE(rate.Take(2'000'000, clock.Now(), &again));
  EXPECT_FALSE(rate.Take(1, clock.Now(), &again));
  EXPECT_GE(again, clock.Now() + milliseconds(1900));
  clock.Advance(again - clock.Now());
  EXPECT_TRUE(rate.Take(1, clock.Now(), &again));
}

TEST(ByteRateTest, IdleTimeIsNotSavedUpBeyondTheBurst) {
  ByteRate rate;
  ManualClock clock;
  rate.SetMax(1'000'000, clock.Now());
  clock.Advance(seconds(100));
  MonotonicTime again;
  uint64_t gone = 0;
  while (rate.Take(10'000, clock.Now(), &again)) gone += 10'000;
  EXPECT_LE(gone, 60'000u);
}

TEST(ByteRateTest, NewBoundHoldsAtOnceAndNoBoundOwesNothing) {
  ByteRate rate;
  ManualClock clock;
  MonotonicTime again;
  EXPECT_TRUE(rate.Take(1 << 30, clock.Now(), &again));
  rate.SetMax(1000, clock.Now());
  EXPECT_TRUE(rate.Take(1000, clock.Now(), &again));
  EXPECT_FALSE(rate.Take(1000, clock.Now(), &again));
  rate.SetMax(0, clock.Now());
  EXPECT_TRUE(rate.Take(1 << 30, clock.Now(), &again));
}

TEST(ByteMeterTest, ShowsTheRateOfTheLastTwoSecondsAndThenNothing) {
  ByteMeter meter;
  ManualClock clock;
  EXPECT_EQ(meter.PerSecond(clock.Now()), 0u);
  for (int i = 0; i < 100; ++i) {
    meter.Add(10'000, clock.Now());
    clock.Advance(milliseconds(100));
  }
  EXPECT_NEAR(static_cast<double>(meter.PerSecond(clock.Now())), 100'000, 15'000);
  clock.Advance(seconds(3));
  EXPECT_EQ(meter.PerSecond(clock.Now()), 0u);
}

TEST(ByteMeterTest, StartIsMeasuredOverTheTimeItRan) {
  ByteMeter meter;
  ManualClock clock;
  clock.Advance(seconds(1000));
  for (int i = 0; i < 10; ++i) {
    meter.Add(10'000, clock.Now());
    clock.Advance(milliseconds(50));
  }
  EXPECT_GE(meter.PerSecond(clock.Now()), 130'000u);
}

}  // namespace
}  // namespace engram
