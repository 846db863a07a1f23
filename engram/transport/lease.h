// Leases: until when a reader may use rows that it took from a node's memory by itself. Pure.
// The reader counts from sending its request, the node from receiving it, so that the reader's
// lease always ends first.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <mutex>

#include "engram/base/clock.h"
#include "engram/base/strong_id.h"

namespace engram {

// The reader's side: one session's lease. Thread-compatible.
class HeldLease {
 public:
  // A request goes out now. Returns its sequence number.
  [[nodiscard]] uint64_t StartRequest(MonotonicTime now);
  // A grant came. False when it answers no request of the last few: nothing changes then.
  bool Accept(uint64_t sequence, std::chrono::milliseconds lease);

  // Check after the rows were copied, before they are used.
  [[nodiscard]] bool ValidAt(MonotonicTime now) const { return now < end_; }

 private:
  static constexpr uint64_t kRemembered = 8;
  std::array<MonotonicTime, kRemembered> sent_{};  // [sequence % kRemembered]
  uint64_t last_sequence_ = 0;
  uint64_t last_accepted_ = 0;
  MonotonicTime end_ = MonotonicTime::min();
};

// The node's side: every lease that it granted and that has not ended. A lease outlives its
// session's connection: the reader may still be reading. Thread-safe.
class LeaseBook {
 public:
  // A lease until `end`, for a reader that acknowledged `epoch`. Replaces the session's last one;
  // an acknowledged epoch never goes back.
  void Grant(uint64_t session, TableVersion version, Epoch epoch, MonotonicTime end);
  // The session acknowledged an epoch without a new lease.
  void Acknowledge(uint64_t session, Epoch epoch);

  // True when no reader may still read under a map of `version` older than `epoch`: every lease has
  // ended or is acknowledged at `epoch` or later. Forgets leases that have ended.
  [[nodiscard]] bool AllAcknowledged(TableVersion version, Epoch epoch, MonotonicTime now);
  [[nodiscard]] size_t size() const;

 private:
  struct Lease {
    TableVersion version;
    Epoch acknowledged;
    MonotonicTime end;
  };
  mutable std::mutex mutex_;
  std::map<uint64_t, Lease> leases_;
};

}  // namespace engram
