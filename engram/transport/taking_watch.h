// Whether a peer takes what is sent to it: all of it, not only now and then some.
#pragma once

#include <cstdint>

#include "engram/base/clock.h"

namespace engram {

// Counts messages that were handed over, and those that have left. Looked at now and then: from
// look to look it remembers one moment, and everything that was handed over before it must leave.
// So one message that leaves every few seconds does not stand for those behind it.
// Pure. Thread-compatible.
class TakingWatch {
 public:
  void Sent() { ++sent_; }
  void Left() { ++left_; }

  // For how long, at least, something that was handed over has not left; less than it is by the
  // time between two looks at most. 0 = nothing is known to wait since the last look.
  [[nodiscard]] Duration Behind(MonotonicTime now) {
    if (left_ < sent_then_) return now - then_;
    sent_then_ = sent_;
    then_ = now;
    return {};
  }

 private:
  uint64_t sent_ = 0;
  uint64_t left_ = 0;
  uint64_t sent_then_ = 0;  // when it was `then_`
  MonotonicTime then_;
};

}  // namespace engram
