#include "engram/transport/lease.h"

#include <algorithm>

namespace engram {

uint64_t HeldLease::StartRequest(MonotonicTime now) {
  ++last_sequence_;
  sent_[last_sequence_ % kRemembered] = now;
  return last_sequence_;
}

bool HeldLease::Accept(uint64_t sequence, std::chrono::milliseconds lease) {
  if (sequence == 0 || sequence > last_sequence_ || sequence + kRemembered <= last_sequence_ ||
      sequence <= last_accepted_) {
    return false;
  }
  last_accepted_ = sequence;
  // A grant of nothing ends no lease: the node counts the earlier one as running.
  if (lease.count() > 0) end_ = sent_[sequence % kRemembered] + lease;
  return true;
}

void LeaseBook::Grant(uint64_t session, TableVersion version, Epoch epoch, MonotonicTime end) {
  const std::lock_guard lock(mutex_);
  Lease& lease = leases_[session];
  lease.version = version;
  lease.acknowledged = std::max(lease.acknowledged, epoch);
  lease.end = std::max(lease.end, end);
}

void LeaseBook::Acknowledge(uint64_t session, Epoch epoch) {
  const std::lock_guard lock(mutex_);
  const auto found = leases_.find(session);
  if (found == leases_.end()) return;
  found->second.acknowledged = std::max(found->second.acknowledged, epoch);
}

bool LeaseBook::AllAcknowledged(TableVersion version, Epoch epoch, MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  std::erase_if(leases_, [now](const auto& entry) { return entry.second.end <= now; });
  return std::all_of(leases_.begin(), leases_.end(), [&](const auto& entry) {
    return entry.second.version != version || entry.second.acknowledged >= epoch;
  });
}

size_t LeaseBook::size() const {
  const std::lock_guard lock(mutex_);
  return leases_.size();
}

}  // namespace engram
