// A memory node's state: takes assignments, loads or copies what is missing, checks and repairs
// what is there, says what it holds.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/transport/row_server.h"
#include "shard_server/node_snapshot.h"
#include "shard_server/slot_assignment.h"
#include "shard_server/slot_copier.h"
#include "shard_server/slot_loader.h"
#include "shard_server/slot_scrubber.h"
#include "shard_server/slot_store.h"

namespace engram {

// Everything runs on the executor given, of an io_context with one thread: the "store thread",
// which owns the slot store and is not the thread that talks to the coordinator, because taking
// memory may take seconds. Only snapshot() and SetCopyRateMax are thread-safe.
//
// Two kinds of work fill slots, each on a thread of its own, one job of each kind at a time, lowest
// rank first: a load from a checkpoint, and a copy from other nodes, of at most copy_slots_max
// slots. Nothing of a higher rank is started while slots of rank 0 are loaded, and a job that is
// under way gives way to one of a lower rank of its kind. A change of the assignment does not
// interrupt a job: what was added comes after it, what was taken away is not published (and copied
// no further); a dropped version ends its jobs.
//
// Slots that are assigned no longer are served until readers know (slot_store.h); a node that is
// full but for them has slots wait for their memory.
//
// A third thread checks the rows of ready slots: at once those that a reader reported (the
// assignment names them as damaged), and the others one after the other, at a bounded rate. A slot
// with damaged rows is served on, for its other rows are good, and gets a replacement, which the
// two kinds of work fill like an empty slot. The coordinator is told, so that an assignment names a
// source for it; without one it comes from where the old one says after source_wait. A report that
// the check does not confirm changes nothing.
//
// A slot that its source does not give is loaded from the checkpoint. A load that failed keeps the
// slots that were complete, tells why, and is tried again after a while (retry_min, doubling up to
// retry_max): a folder that was not mounted yet heals by itself. Then the sources are tried again
// too.
class MemoryNode {
 public:
  using Executor = boost::asio::io_context::executor_type;
  using LoadFunction =
      std::function<Status(const LoadJob&, const LoadOptions&, LoadControl*, const OnSlotLoaded&)>;
  struct Options {
    SlotStore::Options store;
    LoadOptions load;
    Duration retry_min = std::chrono::seconds(5);
    Duration retry_max = std::chrono::seconds(60);
    LoadFunction load_function;                // empty: LoadSlots
    SlotCopier::MakeTransport make_transport;  // empty: every slot comes from the checkpoint
    SlotCopier::Options copy;
    // In one job, which opens its own sessions. What is more urgent does not wait for its end.
    size_t copy_slots_max = 512;
    uint64_t scrub_bytes_per_s_max = 0;                 // 0 = no scrub; reports are checked
    Duration scrub_pass_min = std::chrono::seconds(1);  // a pass starts no sooner after the last
    Duration source_wait = std::chrono::seconds(2);
  };
  // `server` must outlive the node.
  MemoryNode(const Executor& executor, RowServer* server, Options options);
  // Cancels what is under way and waits for its threads. Call on the executor, or when it no longer
  // runs; a handler that is still queued does nothing then.
  ~MemoryNode();
  MemoryNode(const MemoryNode&) = delete;
  MemoryNode& operator=(const MemoryNode&) = delete;

  [[nodiscard]] const Executor& executor() const { return executor_; }

  // Holds what `assignment` says from now on. Errors show in the snapshot.
  void Apply(SlotAssignment assignment);
  // Holds nothing of this version any more.
  void Drop(TableVersion version);
  // A newer shard map of a version was published.
  void SetNewestEpoch(TableVersion version, Epoch epoch);
  // Bytes a second from other nodes, all slots together; 0 = no bound. Thread-safe.
  void SetCopyRateMax(uint64_t bytes_per_s);

  // TEST HOOKS.
  void SetLoadingPaused(bool paused);
  [[nodiscard]] Status FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte);

  // What there was at most kSnapshotDelay ago. Thread-safe; never null.
  [[nodiscard]] std::shared_ptr<const NodeSnapshot> snapshot() const;
  static constexpr auto kSnapshotDelay = std::chrono::milliseconds(50);
  // How often figures that change by themselves are looked at while there are any.
  static constexpr auto kTick = std::chrono::milliseconds(100);

 private:
  // A ready slot with damaged rows, until its replacement is served.
  struct Damage {
    uint32_t rows = 0;
    MonotonicTime found_at;
    bool named = false;  // by an assignment since: the coordinator knows, and its source is fresh
  };
  struct Version {
    SlotAssignment assignment;
    bool placed = false;  // the store holds this assignment's slots
    Status error;
    uint32_t failures = 0;
    MonotonicTime retry_at;
    // Slots whose source failed, and which: they come from the checkpoint, until another source is
    // named or the checkpoint fails too.
    std::map<SlotIndex, Incarnation> failed_sources;
    std::map<SlotIndex, Damage> damage;  // each slot is ready
    std::set<SlotIndex> reported;        // by readers, to be checked
    // Why a damaged slot has no replacement, and when to try again.
    Status repair_error;
    MonotonicTime repair_at;
    HeldVersion told;     // in the last snapshot
    bool changed = true;  // since then
  };
  // Fills pinned slots of one version on a thread of its own.
  struct Work {
    TableVersion version;
    uint32_t rank = 0;             // of all its slots
    std::vector<EmptySlot> slots;  // pinned
    LoadControl control;
    std::thread thread;
    bool dropped = false;    // its version is held no longer
    bool preempted = false;  // cancelled for something more urgent
  };
  enum class WorkKind : uint8_t { kLoad, kCopy };
  // The slot that the scrubber has now, its rows pinned.
  struct Check {
    TableVersion version;
    SlotIndex slot;
    const std::byte* rows = nullptr;
    bool reported = false;
    bool dropped = false;  // its version is held no longer
  };
  // How far the pass over the ready slots is.
  struct ScrubPass {
    TableVersion version;  // the next slot is this one, or the first ready one after it
    SlotIndex slot;
    MonotonicTime started_at;  // or is to start at
    uint64_t slots_checked = 0;
  };
  // What a kind of work should do next.
  struct Choice {
    Version* version = nullptr;
    uint32_t rank = 0;
    std::vector<EmptySlot> slots;
  };

  // memory_node.cc
  void Place(Version* version);
  [[nodiscard]] Status PlaceSlots(const SlotAssignment& assignment);
  // Sets the error that remains when no load is at work: refused slots.
  void NoteRefused(Version* version);
  void Fail(Version* version, Status error);
  void ArmRetry();
  void Retry();
  void ArmTick();
  void Tick();
  void Changed(Version* version);
  void ArmSnapshot();
  void TakeSnapshot();

  // memory_node_work.cc
  [[nodiscard]] std::optional<Choice> Choose(WorkKind kind);
  [[nodiscard]] const SourceNode* SourceOf(const Version& version, size_t position) const;
  void StartWork();
  void StartLoad();
  void StartCopy();
  [[nodiscard]] std::unique_ptr<Work> MakeWork(const Choice& choice);
  // Runs `work` on the thread of `to`; `end` on the store thread afterwards.
  void Run(Work* to, std::function<Status()> work, void (MemoryNode::*end)(const Status&));
  [[nodiscard]] OnSlotLoaded WhenLoaded(TableVersion version, WorkKind kind);
  void OnLoaded(TableVersion version, WorkKind kind, const EmptySlot& slot, SlotDigest digest);
  void OnCopyFailed(TableVersion version, const EmptySlot& slot, Incarnation source);
  void SourceFailed(Version* version, SlotIndex slot);
  void OnLoadEnd(const Status& status);
  void OnCopyEnd(const Status& status);
  // Lets go of work that has ended; null when its version is held no longer.
  [[nodiscard]] Version* EndWork(std::unique_ptr<Work>* work);
  // After an assignment: slots on their way that are wanted no longer, and work that something more
  // urgent waits for.
  void Redirect();

  // memory_node_scrub.cc
  // Notes what a new assignment says of damage, and forgets that of slots that are not ready.
  void TakeReports(Version* version);
  void StartCheck();
  void StartNextOfPass();
  [[nodiscard]] bool StartCheckOf(TableVersion version, SlotIndex slot, bool reported);
  void OnChecked(const ScrubResult& result);
  void TakeDamage(const Check& check, const ScrubResult& result);
  void ArmScrub();
  // Gives every damaged slot a replacement, if there is memory.
  void Repair(Version* version);
  void FailRepair(Version* version, Status error);
  void OnReplaced(Version* version, SlotIndex slot);
  // True while a damaged slot waits for an assignment that names a source for it.
  [[nodiscard]] bool AwaitsSource(const Version& version, SlotIndex slot) const;
  [[nodiscard]] bool AnyAwaitsSource() const;

  Executor executor_;
  Options options_;
  SlotStore store_;
  std::map<TableVersion, Version> versions_;
  SlotCopier copier_;  // its copying thread is that of copy_
  std::unique_ptr<Work> load_;
  std::unique_ptr<Work> copy_;
  bool loading_paused_ = false;
  uint64_t loads_failed_ = 0;
  uint64_t bytes_copied_ = 0;  // by copies that have ended
  uint64_t slots_copied_ = 0;
  uint64_t slots_not_copied_ = 0;
  std::optional<Check> check_;
  ScrubPass pass_;
  uint64_t corrupt_rows_found_ = 0;
  uint64_t rows_repaired_ = 0;
  uint64_t reports_unconfirmed_ = 0;
  uint64_t scrub_passes_ = 0;
  Duration scrub_last_pass_{0};
  uint64_t changes_ = 0;
  boost::asio::steady_timer retry_timer_;
  boost::asio::steady_timer snapshot_timer_;
  bool snapshot_armed_ = false;
  boost::asio::steady_timer tick_timer_;
  bool tick_armed_ = false;
  boost::asio::steady_timer scrub_timer_;

  mutable std::mutex snapshot_mutex_;
  std::shared_ptr<const NodeSnapshot> snapshot_;  // guarded by snapshot_mutex_

  // Gone with the node: handlers still queued see that and do nothing.
  std::shared_ptr<int> alive_ = std::make_shared<int>(0);

  SlotScrubber scrubber_;  // last: its thread reads rows that store_ pinned
};

}  // namespace engram
