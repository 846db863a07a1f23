#include "engram/transport/taking_watch.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

using std::chrono::milliseconds;

MonotonicTime At(int ms) { return MonotonicTime(milliseconds(ms)); }

TEST(TakingWatchTest, WhoTakesEverythingIsNeverBehind) {
  TakingWatch watch;
  for (int ms = 0; ms < 10000; ms += 100) {
    EXPECT_EQ(watch.Behind(At(ms)), Duration(0));
    watch.Sent();
    watch.Sent();
    watch.Left();
    watch.Left();
  }
}

TEST(TakingWatchTest, WhoTakesNothingIsBehindSinceTheLookAfterItWasSent) {
  TakingWatch watch;
  EXPECT_EQ(watch.Behind(At(0)), Duration(0));
  watch.Sent();
  EXPECT_EQ(watch.Behind(At(100)), Duration(0));
  EXPECT_EQ(watch.Behind(At(600)), milliseconds(500));
  watch.Left();
  EXPECT_EQ(watch.Behind(At(700)), Duration(0));
}

TEST(TakingWatchTest, SomebodyWithMuchOnItsWayWhoTakesItIsNotBehind) {
  TakingWatch watch;
  for (int i = 0; i < 8; ++i) watch.Sent();
  for (int ms = 0; ms < 10000; ms += 100) {
    EXPECT_LE(watch.Behind(At(ms)), milliseconds(800));  // eight later it has left
    watch.Left();
    watch.Sent();
  }
}

// It takes one of its replies as often as it must to seem alive, and holds the others.
TEST(TakingWatchTest, WhoTakesALittleNowAndThenIsBehind) {
  TakingWatch watch;
  for (int i = 0; i < 8; ++i) watch.Sent();
  Duration most{};
  for (int ms = 0; ms < 12000; ms += 500) {
    most = std::max(most, watch.Behind(At(ms)));
    if (ms % 2500 == 2000) {
      watch.Left();
      watch.Sent();
    }
  }
  EXPECT_GT(most, milliseconds(3000));
}

}  // namespace
}  // namespace engram
