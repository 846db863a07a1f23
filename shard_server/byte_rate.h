// How many bytes a second: a bound that work keeps to, and a meter of what it did. Time is an
// input.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "engram/base/clock.h"

namespace engram {

// A token bucket over bytes. It holds at most kBurst worth of its rate, and lends: an amount larger
// than what is there goes when anything is there, and the debt is waited for before the next. So
// pieces larger than the burst pass too, and over any time t at most rate * (t + kBurst) + one
// piece goes. Thread-safe.
class ByteRate {
 public:
  static constexpr Duration kBurst = std::chrono::milliseconds(50);

  // 0 = no bound. The new bound holds at once; what was owed under the old one stays owed.
  void SetMax(uint64_t bytes_per_s, MonotonicTime now);
  [[nodiscard]] uint64_t bytes_per_s_max() const;

  // Takes `bytes` if they may go now; else nothing is taken and `*again` is when to ask again.
  [[nodiscard]] bool Take(uint64_t bytes, MonotonicTime now, MonotonicTime* again);

 private:
  void Refill(MonotonicTime now);

  mutable std::mutex mutex_;
  // All guarded by mutex_.
  uint64_t bytes_per_s_max_ = 0;
  double there_ = 0;  // bytes that may go; negative: owed
  MonotonicTime filled_at_;
};

// Bytes a second over about the last kWindow. Thread-safe.
class ByteMeter {
 public:
  static constexpr Duration kWindow = std::chrono::seconds(2);

  void Add(uint64_t bytes, MonotonicTime now);
  [[nodiscard]] uint64_t PerSecond(MonotonicTime now);

 private:
  static constexpr size_t kBuckets = 8;
  static constexpr Duration kBucket = kWindow / kBuckets;

  // Forgets what is older than the window. Precondition: mutex_ is held.
  void MoveTo(MonotonicTime now);

  std::mutex mutex_;
  // All guarded by mutex_.
  std::array<uint64_t, kBuckets> bytes_{};  // [bucket number % kBuckets]
  int64_t newest_ = 0;                      // bucket number: time since the clock's zero / kBucket
  int64_t first_ = 0;                       // bucket number of the first Add after a pause
};

}  // namespace engram
