// How often something that others can cause is told in a log, which they must not fill.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "engram/base/clock.h"

namespace engram {

// Thread-compatible.
class TellRate {
 public:
  // At most `per_second` on average, and as many in a burst.
  explicit TellRate(uint32_t per_second) : per_second_(per_second), left_(per_second) {}

  // To be told: how many were left out since the last one that was. None: leave this one out too.
  [[nodiscard]] std::optional<uint64_t> Tell(MonotonicTime now) {
    const std::chrono::duration<double> passed = now - filled_;
    filled_ = now;
    left_ = std::min<double>(per_second_, left_ + per_second_ * passed.count());
    if (left_ < 1) {
      ++left_out_;
      return std::nullopt;
    }
    left_ -= 1;
    return std::exchange(left_out_, 0);
  }

 private:
  const uint32_t per_second_;
  double left_;  // that may be told now
  uint64_t left_out_ = 0;
  MonotonicTime filled_{};
};

}  // namespace engram
