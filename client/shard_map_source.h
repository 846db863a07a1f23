// Where a reader gets shard maps from, and where it says that a row was damaged.
#pragma once

#include <functional>
#include <memory>

#include "engram/base/strong_id.h"
#include "engram/table/shard_map.h"

namespace engram {

// Thread-safe. ShardDirectory asks the coordinator; FixedShardMap is told (tests, tools).
class ShardMapSource {
 public:
  virtual ~ShardMapSource() = default;

  // The newest map known, an immutable snapshot; never null. All maps of one source are of one
  // version; epochs only grow.
  [[nodiscard]] virtual std::shared_ptr<const ShardMap> Current() const = 0;
  // `on_change` is called on another thread after each new map; it must be short and must not call
  // back. Unsubscribe waits for a call that is going on: none comes after it.
  [[nodiscard]] virtual uint64_t Subscribe(std::function<void()> on_change) = 0;
  virtual void Unsubscribe(uint64_t subscription) = 0;
  // A newer map seems to exist, or is needed: ask soon.
  virtual void WantNewer() = 0;
  // Rows of `slot` from this node fail their CRC. Returns at once; a repeated report may be
  // dropped.
  virtual void ReportSlot(SlotIndex slot, const ShardMapNode& node) = 0;
};

}  // namespace engram
