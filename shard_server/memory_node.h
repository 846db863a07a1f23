// A memory node's state: takes assignments, loads what is missing, says what it holds.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/transport/row_server.h"
#include "shard_server/slot_assignment.h"
#include "shard_server/slot_loader.h"
#include "shard_server/slot_store.h"

namespace engram {

// One version, as others are told of it. Immutable.
struct HeldVersion {
  TableVersion version;
  uint64_t revision = 0;  // of the assignment that this answers
  uint64_t change = 0;    // grows whenever anything else here changed
  uint64_t slots_assigned = 0;
  uint64_t bytes_total = 0;  // stored bytes of the assigned slots
  uint64_t bytes_ready = 0;
  std::shared_ptr<const std::vector<AssignedSlot>> ready;  // ascending, with digests; never null
  // Why slots are missing; stays until a later try succeeds.
  Status error;
  [[nodiscard]] bool complete() const { return error.ok() && ready->size() == slots_assigned; }
};

struct NodeSnapshot {
  std::vector<HeldVersion> versions;  // ascending
  SlotStoreFigures memory;
  bool loading = false;
  bool loading_paused = false;  // by the test hook
  uint64_t loads_failed = 0;    // since start
  uint64_t corrupt_rows_found = 0;
};

// Everything runs on the executor given (a strand, or an io_context with one thread): the "store
// thread", which owns the slot store and is not the thread that talks to the coordinator, because
// taking memory may take seconds. Only snapshot() is thread-safe. One load runs at a time, on a
// thread of its own; a change of the assignment does not interrupt it (what was added is loaded
// after it, what was taken away is not published), a dropped version does.
//
// A load that failed keeps the slots that were complete, tells why, and is tried again after a
// while (retry_min, doubling up to retry_max): a folder that was not mounted yet heals by itself.
class MemoryNode {
 public:
  using LoadFunction =
      std::function<Status(const LoadJob&, const LoadOptions&, LoadControl*, const OnSlotLoaded&)>;
  struct Options {
    SlotStore::Options store;
    LoadOptions load;
    Duration retry_min = std::chrono::seconds(5);
    Duration retry_max = std::chrono::seconds(60);
    LoadFunction load_function;  // empty: LoadSlots
  };
  // `server` must outlive the node.
  MemoryNode(boost::asio::any_io_executor executor, RowServer* server, Options options);
  // Cancels a load and waits for its thread. Call on the executor, or when it no longer runs; a
  // handler that is still queued does nothing then.
  ~MemoryNode();
  MemoryNode(const MemoryNode&) = delete;
  MemoryNode& operator=(const MemoryNode&) = delete;

  [[nodiscard]] const boost::asio::any_io_executor& executor() const { return executor_; }

  // Holds what `assignment` says from now on. Errors show in the snapshot.
  void Apply(SlotAssignment assignment);
  // Holds nothing of this version any more.
  void Drop(TableVersion version);

  // TEST HOOKS.
  void SetLoadingPaused(bool paused);
  [[nodiscard]] Status FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte);

  // What there was at most kSnapshotDelay ago. Thread-safe; never null.
  [[nodiscard]] std::shared_ptr<const NodeSnapshot> snapshot() const;
  static constexpr auto kSnapshotDelay = std::chrono::milliseconds(50);

 private:
  struct Version {
    SlotAssignment assignment;
    bool placed = false;  // the store holds this assignment's slots
    Status error;
    uint32_t failures = 0;
    MonotonicTime retry_at;
    HeldVersion told;     // in the last snapshot
    bool changed = true;  // since then
  };
  // The one load that may run.
  struct Load {
    TableVersion version;
    LoadControl control;
    std::thread thread;
    bool dropped = false;  // its version is held no longer
  };

  void Place(Version* version);
  [[nodiscard]] Status PlaceSlots(const SlotAssignment& assignment);
  // Sets the error that remains when no load is at work: refused slots.
  void NoteRefused(Version* version);
  void Fail(Version* version, Status error);
  void StartNextLoad();
  void OnLoaded(TableVersion version, SlotIndex slot, const std::byte* rows, SlotDigest digest);
  void OnLoadEnd(const Status& status);
  void ArmRetry();
  void Retry();
  void Changed(Version* version);
  void TakeSnapshot();

  boost::asio::any_io_executor executor_;
  Options options_;
  SlotStore store_;
  std::map<TableVersion, Version> versions_;
  // An assignment of a version whose dropped predecessor is still being loaded.
  std::map<TableVersion, SlotAssignment> after_load_;
  std::unique_ptr<Load> load_;
  bool loading_paused_ = false;
  uint64_t loads_failed_ = 0;
  uint64_t changes_ = 0;
  boost::asio::steady_timer retry_timer_;
  boost::asio::steady_timer snapshot_timer_;
  bool snapshot_armed_ = false;

  mutable std::mutex snapshot_mutex_;
  std::shared_ptr<const NodeSnapshot> snapshot_;  // guarded by snapshot_mutex_

  // Gone with the node: handlers still queued see that and do nothing.
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);
};

}  // namespace engram
