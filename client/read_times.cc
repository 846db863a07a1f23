#include "client/read_times.h"

#include <algorithm>
#include <bit>
#include <chrono>

namespace engram {

size_t ReadTimes::BucketOf(Duration took) {
  const int64_t ns = std::chrono::duration_cast<std::chrono::nanoseconds>(took).count();
  constexpr int64_t kFirst = int64_t{1} << kFirstBit;
  constexpr int64_t kLast = (int64_t{1} << kLastBit) - 1;
  const auto clamped = static_cast<uint64_t>(std::clamp(ns, kFirst, kLast));
  const auto top_bit = static_cast<uint32_t>(std::bit_width(clamped)) - 1;
  // The two bits below the top one choose the quarter of the octave.
  return size_t{top_bit - kFirstBit} * 4 + ((clamped >> (top_bit - 2)) & 3);
}

Duration ReadTimes::UpperBound(size_t bucket) {
  const size_t octave = bucket / 4;
  const uint64_t quarter = (uint64_t{1} << (octave + kFirstBit)) / 4;
  return std::chrono::nanoseconds(static_cast<int64_t>(quarter * (4 + bucket % 4 + 1)));
}

void ReadTimes::Add(Duration took) {
  ++counts_[BucketOf(took)];
  if (++samples_ >= kSamplesMax) Halve();
  if (++since_refresh_ < kRefreshSamples || samples_ < kSamplesMin) return;
  since_refresh_ = 0;
  p99_ = ComputeP99();
}

void ReadTimes::Halve() {
  samples_ = 0;
  for (uint32_t& count : counts_) {
    count /= 2;
    samples_ += count;
  }
}

Duration ReadTimes::ComputeP99() const {
  const uint32_t above_max = samples_ / 100;
  uint32_t above = 0;
  for (size_t bucket = kBuckets; bucket-- > 0;) {
    above += counts_[bucket];
    if (above > above_max) return UpperBound(bucket);
  }
  return {};
}

}  // namespace engram
