// How often something took how long, in fixed buckets that only grow: what a Prometheus histogram
// is made of.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <numeric>

namespace engram {

// A value.
struct TimeBuckets {
  // Upper bounds, inclusive: 5 us to 1 s in steps of 1, 2 and 5.
  static constexpr std::array<uint64_t, 17> kUpperNs = {
      5'000,      10'000,      20'000,      50'000,      100'000,      200'000,
      500'000,    1'000'000,   2'000'000,   5'000'000,   10'000'000,   20'000'000,
      50'000'000, 100'000'000, 200'000'000, 500'000'000, 1'000'000'000};
  static constexpr size_t kCount = kUpperNs.size() + 1;  // the last is for everything longer

  std::array<uint64_t, kCount> counts{};  // of each bucket alone
  uint64_t sum_ns = 0;

  [[nodiscard]] static size_t BucketOf(uint64_t ns) {
    const auto* const bound = std::lower_bound(kUpperNs.begin(), kUpperNs.end(), ns);
    return static_cast<size_t>(bound - kUpperNs.begin());
  }
  [[nodiscard]] uint64_t count() const {
    return std::accumulate(counts.begin(), counts.end(), uint64_t{0});
  }
  void Add(uint64_t ns) {
    ++counts[BucketOf(ns)];
    sum_ns += ns;
  }
  void Add(const TimeBuckets& more) {
    for (size_t i = 0; i < kCount; ++i) counts[i] += more.counts[i];
    sum_ns += more.sum_ns;
  }
};

// The same where one thread adds and any may read, without a lock.
class TimeRecorder {
 public:
  void Add(uint64_t ns) {
    // Cheaper than fetch_add: there is one writer.
    const auto add = [](std::atomic<uint64_t>& number, uint64_t n) {
      number.store(number.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
    };
    add(counts_[TimeBuckets::BucketOf(ns)], 1);
    add(sum_ns_, ns);
  }
  // A sample that is added meanwhile may be in the count and not in the sum yet.
  void AddTo(TimeBuckets* buckets) const {
    for (size_t i = 0; i < counts_.size(); ++i) {
      buckets->counts[i] += counts_[i].load(std::memory_order_relaxed);
    }
    buckets->sum_ns += sum_ns_.load(std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint64_t>, TimeBuckets::kCount> counts_{};
  std::atomic<uint64_t> sum_ns_{0};
};

}  // namespace engram
