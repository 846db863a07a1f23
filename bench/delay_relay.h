// A cable with a length: hands Ethernet frames from one TAP device to another, each a fixed time
// after it came.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

#include <sys/types.h>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram::bench {

// Frames on their way in one direction. Pure: time is an input. Buffers are reused.
class DelayedFrames {
 public:
  explicit DelayedFrames(Duration delay) : delay_(delay) {}

  // A segment of 64 KiB, its headers, and what TAP says of its offloads.
  static constexpr size_t kFrameBytesMax = (64u << 10) + 256;
  struct Frame {
    std::vector<std::byte> bytes;  // [kFrameBytesMax]
    size_t size = 0;
  };
  // A buffer to read a frame into. It goes to Push, filled, or back.
  [[nodiscard]] Frame TakeBuffer();
  void GiveBack(Frame frame) { unused_.push_back(std::move(frame)); }
  void Push(Frame frame, MonotonicTime now);
  // The frame that is due; null: none is. Valid until Pop.
  [[nodiscard]] const Frame* Due(MonotonicTime now) const;
  void Pop();
  // When the next one is due; max: there is none.
  [[nodiscard]] MonotonicTime NextDue() const;
  // A full cable takes no more: who sends finds the device's own queue full.
  [[nodiscard]] bool full() const { return bytes_ >= kBytesMax; }

 private:
  static constexpr size_t kBytesMax = 64u << 20;
  struct OnItsWay {
    MonotonicTime due;
    Frame frame;
  };
  Duration delay_;
  std::deque<OnItsWay> frames_;
  std::vector<Frame> unused_;
  size_t bytes_ = 0;
};

// A process of its own that relays both directions until this object goes.
class DelayRelay {
 public:
  // `taps`: of OpenTap; owned. ERRORS: kIo.
  [[nodiscard]] static Result<std::unique_ptr<DelayRelay>> Start(int tap_a, int tap_b,
                                                                 Duration one_way);
  ~DelayRelay();
  DelayRelay(const DelayRelay&) = delete;
  DelayRelay& operator=(const DelayRelay&) = delete;

 private:
  DelayRelay(pid_t child, int channel) : child_(child), channel_(channel) {}
  pid_t child_;
  int channel_;  // owned; the child ends when it closes
};

// A TAP device in this thread's network namespace. It takes segments of up to 64 KiB whole and with
// no checksum, as a network card with offloads does. ERRORS: kUnavailable.
[[nodiscard]] Result<int> OpenTap(const char* name);

}  // namespace engram::bench
