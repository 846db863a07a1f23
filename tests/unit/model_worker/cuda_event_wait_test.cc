#include <gtest/gtest.h>

#include "model_worker/cuda/event_wait.h"

namespace engram::gpu {
namespace {

using std::chrono::milliseconds;

const auto kPeersAreWell = [] { return Status(); };

TEST(EventWaitTest, LooksUntilTheGpuIsDone) {
  const ManualClock clock;
  int looks = 0;
  int pauses = 0;
  const Status status = AwaitGpu(
      "a step", [&]() -> Result<bool> { return ++looks == 5; }, kPeersAreWell, milliseconds(1),
      clock, [&] { ++pauses; });
  EXPECT_TRUE(status.ok()) << status.ToString();
  EXPECT_EQ(looks, 5);
  EXPECT_EQ(pauses, 4);
}

TEST(EventWaitTest, AnErrorOfTheGpuEndsTheWait) {
  const ManualClock clock;
  const Status broken(StatusCode::kInternal, "an illegal memory access");
  EXPECT_EQ(AwaitGpu(
                "a step", [&]() -> Result<bool> { return Error(broken); }, kPeersAreWell,
                milliseconds(0), clock, [] {}),
            broken);
}

TEST(EventWaitTest, WhatThePeersSayEndsItOnlyWhileTheGpuIsBusy) {
  const ManualClock clock;
  const Status lost(StatusCode::kInternal, "NCCL: remote process exited");
  for (const bool done : {false, true}) {
    const Status status = AwaitGpu(
        "a step", [&]() -> Result<bool> { return done; }, [&] { return lost; }, milliseconds(0),
        clock, [] {});
    EXPECT_EQ(status, done ? Status() : lost);
  }
}

TEST(EventWaitTest, PatienceEndsWithWordsThatNameTheWaitAndTheFlag) {
  ManualClock clock;
  int pauses = 0;
  const Status status = AwaitGpu(
      "computing a step", []() -> Result<bool> { return false; }, kPeersAreWell, milliseconds(100),
      clock,
      [&] {
        ++pauses;
        clock.Advance(milliseconds(10));
      });
  EXPECT_EQ(status.code(), StatusCode::kDeadlineExceeded);
  EXPECT_NE(status.message().find("100 ms"), std::string::npos);
  EXPECT_NE(status.message().find("computing a step"), std::string::npos);
  EXPECT_NE(status.message().find("--rank-timeout-s"), std::string::npos);
  EXPECT_EQ(pauses, 11);
}

TEST(EventWaitTest, PatienceOfZeroHasNoEnd) {
  ManualClock clock;
  int looks = 0;
  EXPECT_TRUE(AwaitGpu(
                  "a step", [&]() -> Result<bool> { return ++looks == 100; }, kPeersAreWell,
                  milliseconds(0), clock, [&] { clock.Advance(std::chrono::hours(1)); })
                  .ok());
}

}  // namespace
}  // namespace engram::gpu
