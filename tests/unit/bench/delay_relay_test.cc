#include "bench/delay_relay.h"

#include <cstring>

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

DelayedFrames::Frame FrameOf(DelayedFrames& frames, const std::string& text) {
  DelayedFrames::Frame frame = frames.TakeBuffer();
  std::memcpy(frame.bytes.data(), text.data(), text.size());
  frame.size = text.size();
  return frame;
}

std::string TextOf(const DelayedFrames::Frame& frame) {
  return {reinterpret_cast<const char*>(frame.bytes.data()), frame.size};
}

TEST(DelayedFramesTest, EachIsHeldForTheSameTimeAndNoneOvertakes) {
  DelayedFrames frames(std::chrono::microseconds(250));
  const MonotonicTime start = std::chrono::steady_clock::now();
  EXPECT_EQ(frames.NextDue(), MonotonicTime::max());
  EXPECT_EQ(frames.Due(start + std::chrono::hours(1)), nullptr);
  frames.Push(FrameOf(frames, "one"), start);
  frames.Push(FrameOf(frames, "two"), start + std::chrono::microseconds(100));
  EXPECT_EQ(frames.NextDue(), start + std::chrono::microseconds(250));
  EXPECT_EQ(frames.Due(start + std::chrono::microseconds(249)), nullptr);
  const DelayedFrames::Frame* due = frames.Due(start + std::chrono::microseconds(250));
  ASSERT_NE(due, nullptr);
  EXPECT_EQ(TextOf(*due), "one");
  frames.Pop();
  EXPECT_EQ(frames.Due(start + std::chrono::microseconds(250)), nullptr);
  due = frames.Due(start + std::chrono::microseconds(350));
  ASSERT_NE(due, nullptr);
  EXPECT_EQ(TextOf(*due), "two");
}

TEST(DelayedFramesTest, ACableHoldsSoMuchAndNoMore) {
  DelayedFrames frames(std::chrono::seconds(1));
  const MonotonicTime now = std::chrono::steady_clock::now();
  size_t count = 0;
  for (; !frames.full(); ++count) {
    DelayedFrames::Frame frame = frames.TakeBuffer();
    frame.size = 64u << 10;
    frames.Push(std::move(frame), now);
    ASSERT_LE(count, 2000u);
  }
  EXPECT_EQ(count, 1024u);  // 64 MiB
  ASSERT_NE(frames.Due(now + std::chrono::seconds(1)), nullptr);
  frames.Pop();
  EXPECT_FALSE(frames.full());
}

}  // namespace
}  // namespace engram::bench
