// How long the reads of one reader take, as a histogram that forgets.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "engram/base/clock.h"

namespace engram {

// Four buckets an octave from 1 us to 17 s, so a quantile is at most a quarter too high. Counts
// are halved every kSamplesMax samples: what is older than a few thousand reads hardly counts.
// Allocates nothing. Thread-compatible.
class ReadTimes {
 public:
  static constexpr uint32_t kSamplesMin = 64;  // below it no quantile is worth the name
  static constexpr uint32_t kSamplesMax = 2048;

  void Add(Duration took);
  [[nodiscard]] uint32_t samples() const { return samples_; }
  // Upper bound of the 99th percentile; brought up to date every few samples. Zero until there are
  // kSamplesMin.
  [[nodiscard]] Duration p99() const { return p99_; }

 private:
  static constexpr uint32_t kFirstBit = 10;  // 1,024 ns
  static constexpr uint32_t kLastBit = 34;   // 17 s
  static constexpr size_t kBuckets = (kLastBit - kFirstBit) * 4 + 1;
  static constexpr uint32_t kRefreshSamples = 32;

  [[nodiscard]] static size_t BucketOf(Duration took);
  [[nodiscard]] static Duration UpperBound(size_t bucket);
  void Halve();
  [[nodiscard]] Duration ComputeP99() const;

  std::array<uint32_t, kBuckets> counts_{};
  uint32_t samples_ = 0;  // sum of counts_
  uint32_t since_refresh_ = 0;
  Duration p99_{};
};

}  // namespace engram
