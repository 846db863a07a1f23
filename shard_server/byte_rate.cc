#include "shard_server/byte_rate.h"

#include <algorithm>
#include <cmath>

namespace engram {
namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

void ByteRate::SetMax(uint64_t bytes_per_s, MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  Refill(now);
  bytes_per_s_max_ = bytes_per_s;
  there_ = std::min(there_, static_cast<double>(bytes_per_s) * Seconds(kBurst));
}

uint64_t ByteRate::bytes_per_s_max() const {
  const std::lock_guard lock(mutex_);
  return bytes_per_s_max_;
}

void ByteRate::Refill(MonotonicTime now) {
  const double rate = static_cast<double>(bytes_per_s_max_);
  const Duration passed = std::max(now - filled_at_, Duration::zero());
  there_ = std::min(there_ + rate * Seconds(passed), rate * Seconds(kBurst));
  filled_at_ = std::max(now, filled_at_);
}

bool ByteRate::Take(uint64_t bytes, MonotonicTime now, MonotonicTime* again) {
  const std::lock_guard lock(mutex_);
  if (bytes_per_s_max_ == 0) {
    // What goes without a bound is not owed under one that comes later.
    filled_at_ = std::max(now, filled_at_);
    return true;
  }
  Refill(now);
  if (there_ >= 0) {
    there_ -= static_cast<double>(bytes);
    return true;
  }
  const double wait = std::ceil(-there_ / static_cast<double>(bytes_per_s_max_) * 1e9);
  *again = now + std::chrono::nanoseconds(static_cast<int64_t>(wait) + 1);
  return false;
}

void ByteMeter::MoveTo(MonotonicTime now) {
  const int64_t bucket = now.time_since_epoch() / kBucket;
  if (bucket <= newest_) return;
  const int64_t steps = std::min<int64_t>(bucket - newest_, kBuckets);
  for (int64_t i = 0; i < steps; ++i) {
    bytes_[static_cast<size_t>((bucket - i) % static_cast<int64_t>(kBuckets))] = 0;
  }
  if (bucket - newest_ >= static_cast<int64_t>(kBuckets)) first_ = bucket;
  newest_ = bucket;
}

void ByteMeter::Add(uint64_t bytes, MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  MoveTo(now);
  bytes_[static_cast<size_t>(newest_ % static_cast<int64_t>(kBuckets))] += bytes;
}

uint64_t ByteMeter::PerSecond(MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  MoveTo(now);
  uint64_t bytes = 0;
  for (const uint64_t part : bytes_) bytes += part;
  // From the oldest bucket that counts to now; a start is not measured over a window that it has
  // not run for.
  const int64_t oldest = std::max(first_, newest_ - static_cast<int64_t>(kBuckets) + 1);
  const Duration over = std::max(now.time_since_epoch() - oldest * kBucket, kBucket);
  return static_cast<uint64_t>(static_cast<double>(bytes) / Seconds(over));
}

}  // namespace engram
