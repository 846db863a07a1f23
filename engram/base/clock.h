// Time as an input, so that tests and the simulator own it.
#pragma once

#include <chrono>

namespace engram {

// Monotonic. Never compared between machines.
using MonotonicTime = std::chrono::steady_clock::time_point;
using Duration = std::chrono::steady_clock::duration;

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  [[nodiscard]] virtual MonotonicTime Now() const = 0;
};

// The process-wide steady clock.
[[nodiscard]] const Clock& SteadyClock();

// Moves only when told to. Thread-compatible.
class ManualClock final : public Clock {
 public:
  [[nodiscard]] MonotonicTime Now() const override { return now_; }
  void Advance(Duration by) { now_ += by; }

 private:
  MonotonicTime now_{std::chrono::seconds(1)};
};

}  // namespace engram
