// A shard map that somebody sets by hand.
#pragma once

#include <atomic>
#include <map>
#include <mutex>

#include "client/shard_map_source.h"

namespace engram {

// Thread-safe.
class FixedShardMap final : public ShardMapSource {
 public:
  explicit FixedShardMap(ShardMap map) : map_(std::make_shared<const ShardMap>(std::move(map))) {}

  // Publishes a map; its epoch should be higher than the last.
  void Set(ShardMap map) {
    const std::lock_guard lock(mutex_);
    map_ = std::make_shared<const ShardMap>(std::move(map));
    for (const auto& [id, on_change] : subscribers_) on_change();
  }

  [[nodiscard]] std::shared_ptr<const ShardMap> Current() const override {
    const std::lock_guard lock(mutex_);
    return map_;
  }
  [[nodiscard]] uint64_t Subscribe(std::function<void()> on_change) override {
    const std::lock_guard lock(mutex_);
    subscribers_.emplace(++last_subscription_, std::move(on_change));
    return last_subscription_;
  }
  void Unsubscribe(uint64_t subscription) override {
    const std::lock_guard lock(mutex_);
    subscribers_.erase(subscription);
  }
  void WantNewer() override { wanted_.fetch_add(1); }
  void ReportSlot(SlotIndex /*slot*/, const ShardMapNode& /*node*/) override {
    reports_.fetch_add(1);
  }

  [[nodiscard]] uint64_t times_wanted() const { return wanted_.load(); }
  [[nodiscard]] uint64_t slots_reported() const { return reports_.load(); }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const ShardMap> map_;                    // guarded by mutex_
  std::map<uint64_t, std::function<void()>> subscribers_;  // guarded by mutex_
  uint64_t last_subscription_ = 0;                         // guarded by mutex_
  std::atomic<uint64_t> wanted_{0};
  std::atomic<uint64_t> reports_{0};
};

}  // namespace engram
