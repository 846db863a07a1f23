// Rows of whichever table version is current: changes over between two batches.
#pragma once

#include <functional>
#include <memory>

#include "client/row_source.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram {

// Says which version is current.
class CurrentVersionSource {
 public:
  virtual ~CurrentVersionSource() = default;
  // 0 = not known. Thread-safe.
  [[nodiscard]] virtual TableVersion CurrentVersion() const = 0;
  // As ShardMapSource's: called on another thread after a change, short, does not call back.
  [[nodiscard]] virtual uint64_t SubscribeCurrent(std::function<void()> on_change) = 0;
  virtual void UnsubscribeCurrent(uint64_t subscription) = 0;
};

struct FollowingRowsOptions {
  uint32_t batches_max = 8;  // tickets at once, over all versions that are open
  // After a version that could not be opened; doubles up to the most.
  Duration retry_min = std::chrono::seconds(1);
  Duration retry_max = std::chrono::seconds(30);
};

struct OpenedVersion {
  TableVersion version;
  std::shared_ptr<CurrentVersionSource> current;  // as whoever knows this version hears it
  std::unique_ptr<RowSource> rows;
};
// Opens a version; blocks until its slots are there and the nodes know of the reader, so that they
// keep them even when the version is dropped from then on. On the following thread.
using OpenVersion = std::function<Result<OpenedVersion>(TableVersion)>;

// A batch reads one version throughout: the one that was open when it was prefetched. When another
// becomes current it is opened beside the old one; from the next Prefetch on it is the one that is
// read, and the old one is closed once its last ticket is released. A version that cannot be opened
// (another model, slots that are missing) changes nothing: reads stay with the old one, and it is
// tried again, with a line in the log. All must be of one table spec, that of `layout`.
// Thread-safe, as RowSource says; one thread of its own. Nothing is allocated per batch.
//
// Until the old version is closed there are the staging buffers and caches of both.
[[nodiscard]] std::unique_ptr<RowSource> CreateFollowingRows(
    const FollowingRowsOptions& options, std::shared_ptr<const TableLayout> layout,
    std::shared_ptr<const NgramHasher> hasher, OpenedVersion first, OpenVersion open);

}  // namespace engram
