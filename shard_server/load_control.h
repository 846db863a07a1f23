// How others watch and steer work that fills slots (slot_loader.h, slot_copier.h).
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <set>
#include <span>

#include "engram/base/strong_id.h"
#include "shard_server/slot_store.h"

namespace engram {

// Thread-safe.
class LoadControl {
 public:
  // The work ends with kCancelled soon (one buffer's or one reply's work at most).
  void Cancel() { cancelled_.store(true, std::memory_order_relaxed); }
  [[nodiscard]] bool cancelled() const { return cancelled_.load(std::memory_order_relaxed); }
  // TEST HOOK: no more rows are worked on until it is called with false, or Cancel.
  void SetPaused(bool paused) { paused_.store(paused, std::memory_order_relaxed); }
  [[nodiscard]] bool paused() const { return paused_.load(std::memory_order_relaxed); }
  // Stored bytes of the rows worked on so far.
  [[nodiscard]] uint64_t bytes_done() const { return bytes_done_.load(std::memory_order_relaxed); }
  void AddBytesDone(uint64_t bytes) { bytes_done_.fetch_add(bytes, std::memory_order_relaxed); }

  // These slots are wanted no longer. A copy leaves them where they are; a load from a checkpoint,
  // which reads in one sweep, may complete them all the same.
  void Drop(std::span<const SlotIndex> slots) {
    const std::lock_guard lock(mutex_);
    dropped_.insert(slots.begin(), slots.end());
    any_dropped_.store(!dropped_.empty(), std::memory_order_release);
  }
  [[nodiscard]] bool dropped(SlotIndex slot) const {
    if (!any_dropped_.load(std::memory_order_acquire)) return false;
    const std::lock_guard lock(mutex_);
    return dropped_.contains(slot);
  }

 private:
  std::atomic<bool> cancelled_{false};
  std::atomic<bool> paused_{false};
  std::atomic<bool> any_dropped_{false};
  std::atomic<uint64_t> bytes_done_{0};
  mutable std::mutex mutex_;
  std::set<SlotIndex> dropped_;  // guarded by mutex_
};

// A slot's rows are complete and hash to the digest wanted, if one was. On the working thread.
using OnSlotLoaded = std::function<void(const EmptySlot& slot, SlotDigest digest)>;

}  // namespace engram
