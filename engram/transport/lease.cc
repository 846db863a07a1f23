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

void LeaseBook::Open(uint64_t session, TableVersion version, MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  Forget(now);
  Entry& entry = entries_[session];
  entry = {};
  entry.version = version;
  entry.number = ++opened_;
}

void LeaseBook::Close(uint64_t session) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(session);
  if (found != entries_.end()) found->second.open = false;
}

bool LeaseBook::Renew(uint64_t session, const ReaderProgress& progress, MonotonicTime end) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(session);
  if (found == entries_.end() || !found->second.open) return false;
  Entry& entry = found->second;
  entry.progress.acknowledged = std::max(entry.progress.acknowledged, progress.acknowledged);
  entry.progress.directory = std::max(entry.progress.directory, progress.directory);
  if (end == MonotonicTime::min() || !entry.Has(entry.least)) return false;
  entry.end = std::max(entry.end, end);
  return true;
}

void LeaseBook::Forget(MonotonicTime now) {
  std::erase_if(entries_,
                [now](const auto& item) { return !item.second.open && item.second.end <= now; });
}

bool LeaseBook::AllAcknowledged(TableVersion version, Epoch epoch, MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  Forget(now);
  return std::all_of(entries_.begin(), entries_.end(), [&](const auto& item) {
    return item.second.version != version || item.second.progress.acknowledged >= epoch;
  });
}

uint64_t LeaseBook::Require(TableVersion version, const ReaderProgress& least) {
  const std::lock_guard lock(mutex_);
  for (auto& [session, entry] : entries_) {
    if (entry.version != version) continue;
    entry.least.acknowledged = std::max(entry.least.acknowledged, least.acknowledged);
    entry.least.directory = std::max(entry.least.directory, least.directory);
  }
  return opened_;
}

bool LeaseBook::NoneBehind(TableVersion version, uint64_t required, const ReaderProgress& least,
                           MonotonicTime now) {
  const std::lock_guard lock(mutex_);
  Forget(now);
  return std::none_of(entries_.begin(), entries_.end(), [&](const auto& item) {
    const Entry& entry = item.second;
    return entry.version == version && entry.number <= required && entry.end > now &&
           !entry.Has(least);
  });
}

size_t LeaseBook::size() const {
  const std::lock_guard lock(mutex_);
  return entries_.size();
}

}  // namespace engram
