#include "engram/transport/ucx/event_wait.h"

#include <thread>

#include <gtest/gtest.h>

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

}  // namespace
}  // namespace engram
