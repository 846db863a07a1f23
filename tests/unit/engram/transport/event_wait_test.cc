#include "engram/transport/ucx/event_wait.h"

#include <thread>

#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace engram {
namespace {

// A sleep that were too long would be an hour: the test's time limit ends it.
TEST(EventWaitTest, ATimeThatHasPassedIsNotWaitedForHoweverLongAgoItWas) {
  const auto wait = *EventWait::Create();
  wait->Sleep(MonotonicTime::min());
  wait->Sleep(MonotonicTime());
  wait->Sleep(SteadyClock().Now() - std::chrono::milliseconds(1));
}

TEST(EventWaitTest, ANoticeEndsASleepWithoutEnd) {
  const auto wait = *EventWait::Create();
  wait->Notify();
  wait->Sleep(MonotonicTime::max());
  EXPECT_TRUE(wait->TakeNotice());
  EXPECT_FALSE(wait->TakeNotice());
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    wait->Notify();
  });
  wait->Sleep(MonotonicTime::max());
  EXPECT_TRUE(wait->TakeNotice());
  other.join();
}

TEST(EventWaitTest, AnAlarmSetByAnotherThreadEndsASleep) {
  const auto wait = *EventWait::Create();
  const MonotonicTime at = SteadyClock().Now() + std::chrono::milliseconds(20);
  std::thread other([&] { wait->Alarm(at); });
  wait->Sleep(MonotonicTime::max());
  EXPECT_GE(SteadyClock().Now(), at);
  other.join();
  // It has ended one sleep and ends no other.
  std::thread notifier([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    wait->Notify();
  });
  wait->Sleep(MonotonicTime::max());
  EXPECT_TRUE(wait->TakeNotice());
  notifier.join();
  wait->Alarm(MonotonicTime());  // long ago
  wait->Sleep(MonotonicTime::max());
}

TEST(EventWaitTest, WhatIsWatchedEndsNoSleepWhileItIsPaused) {
  const auto wait = *EventWait::Create();
  const int readable = ::eventfd(1, EFD_CLOEXEC);
  ASSERT_TRUE(wait->Watch(readable).ok());
  wait->Sleep(MonotonicTime::max());
  wait->Pause();
  const MonotonicTime at = SteadyClock().Now() + std::chrono::milliseconds(20);
  wait->Alarm(at);
  wait->Sleep(MonotonicTime::max());
  EXPECT_GE(SteadyClock().Now(), at);
  wait->Resume();
  wait->Sleep(MonotonicTime::max());
  ::close(readable);
}

}  // namespace
}  // namespace engram
