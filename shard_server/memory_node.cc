#include "shard_server/memory_node.h"

#include <algorithm>
#include <utility>

#include <boost/asio/post.hpp>
#include <spdlog/spdlog.h>

#include "shard_server/byte_text.h"

namespace engram {

MemoryNode::MemoryNode(const Executor& executor, RowServer* server, Options options)
    : executor_(executor),
      options_(std::move(options)),
      store_(server, &SteadyClock(), options_.store),
      copier_(options_.make_transport, options_.copy),
      retry_timer_(executor_),
      snapshot_timer_(executor_),
      tick_timer_(executor_),
      scrub_timer_(executor_),
      scrubber_(options_.scrub_bytes_per_s_max) {
  if (!options_.load_function) options_.load_function = LoadSlots;
  TakeSnapshot();
}

MemoryNode::~MemoryNode() {
  alive_.reset();
  for (Work* const work : {load_.get(), copy_.get()}) {
    if (work != nullptr) work->control.Cancel();
  }
  for (Work* const work : {load_.get(), copy_.get()}) {
    if (work != nullptr) work->thread.join();
  }
}

void MemoryNode::Apply(SlotAssignment assignment) {
  const TableVersion number = assignment.version;
  auto [found, added] = versions_.try_emplace(number);
  Version& version = found->second;
  if (!added && (version.assignment.spec != assignment.spec ||
                 version.assignment.identity != assignment.identity)) {
    version.assignment.revision = assignment.revision;
    version.error = {StatusCode::kInvalidArgument,
                     "the assignment of version " + std::to_string(number.value()) +
                         " changes its table spec or model identity; versions never change: make a "
                         "new one"};
    spdlog::error("{}", version.error.message());
    Changed(&version);
    return;
  }
  spdlog::info("version {}: assignment {} of {} slots at epoch {}", number.value(),
               assignment.revision, assignment.slots.size(), assignment.newest_epoch.value());
  version.assignment = std::move(assignment);
  version.failures = 0;
  Place(&version);
  TakeReports(&version);
  Redirect();
  StartWork();
  StartCheck();
  ArmTick();
}

void MemoryNode::Place(Version* version) {
  Status placed = PlaceSlots(version->assignment);
  version->placed = placed.ok();
  if (placed.ok()) {
    version->error = {};
    NoteRefused(version);
    Repair(version);
    const uint64_t unplaced = store_.UnplacedCount(version->assignment.version);
    if (unplaced > 0) {
      spdlog::info("version {}: {} slots wait for memory that readers may still use",
                   version->assignment.version.value(), unplaced);
    }
  } else {
    Fail(version, std::move(placed));
  }
  Changed(version);
}

Status MemoryNode::PlaceSlots(const SlotAssignment& assignment) {
  const bool added = !store_.Has(assignment.version);
  if (added) {
    auto layout = TableLayout::Create(assignment.spec);
    if (!layout.has_value()) return layout.error();
    ENGRAM_RETURN_IF_ERROR(
        store_.AddVersion(assignment.version, assignment.identity,
                          std::make_shared<const TableLayout>(*std::move(layout))));
  }
  store_.SetNewestEpoch(assignment.version, assignment.newest_epoch);
  Status status = store_.SetSlots(assignment.version, assignment.slots);
  if (!status.ok() && added) store_.DropVersion(assignment.version);
  return status;
}

void MemoryNode::NoteRefused(Version* version) {
  const std::vector<SlotIndex> refused = store_.RefusedSlots(version->assignment.version);
  if (refused.empty()) return;
  version->error = {
      StatusCode::kCorrupt,
      std::to_string(refused.size()) + " slots, the first " +
          std::to_string(refused.front().value()) +
          ", were loaded here with other bytes than recorded and are not served: make "
          "the checkpoint the same on every node, then restart this node"};
  spdlog::error("version {}: {}", version->assignment.version.value(), version->error.message());
}

void MemoryNode::Fail(Version* version, Status error) {
  version->error = std::move(error);
  const auto doubled = options_.retry_min * (1u << std::min(version->failures, 16u));
  const Duration delay = std::min<Duration>(options_.retry_max, doubled);
  ++version->failures;
  version->retry_at = SteadyClock().Now() + delay;
  spdlog::error("version {}: {}; trying again in {} ms", version->assignment.version.value(),
                version->error.ToString(),
                std::chrono::duration_cast<std::chrono::milliseconds>(delay).count());
  ArmRetry();
}

void MemoryNode::Drop(TableVersion number) {
  const auto found = versions_.find(number);
  if (found == versions_.end()) return;
  spdlog::info("version {}: dropped", number.value());
  versions_.erase(found);
  for (Work* const work : {load_.get(), copy_.get()}) {
    if (work == nullptr || work->version != number) continue;
    work->dropped = true;
    work->control.Cancel();
  }
  if (check_.has_value() && check_->version == number) {
    check_->dropped = true;
    scrubber_.Hurry();
  }
  store_.DropVersion(number);
  ArmTick();
  TakeSnapshot();
}

void MemoryNode::ArmRetry() {
  MonotonicTime first = MonotonicTime::max();
  for (const auto& [number, version] : versions_) {
    if (version.failures > 0) first = std::min(first, version.retry_at);
    if (!version.repair_error.ok()) first = std::min(first, version.repair_at);
  }
  if (first == MonotonicTime::max()) return;
  retry_timer_.expires_at(first);
  retry_timer_.async_wait([this, alive = std::weak_ptr<int>(alive_)](boost::system::error_code ec) {
    if (!ec && !alive.expired()) Retry();
  });
}

void MemoryNode::Retry() {
  const MonotonicTime now = SteadyClock().Now();
  for (auto& [number, version] : versions_) {
    if (version.failures > 0 && !version.placed && version.retry_at <= now) Place(&version);
    if (!version.repair_error.ok() && version.repair_at <= now) Repair(&version);
  }
  StartWork();
  ArmTick();
  // What still waits, for its own time or for the load that runs now.
  for (auto& [number, version] : versions_) {
    if (version.failures > 0 && version.retry_at <= now) {
      version.retry_at = now + options_.retry_min;
    }
  }
  ArmRetry();
}

void MemoryNode::SetLoadingPaused(bool paused) {
  loading_paused_ = paused;
  for (Work* const work : {load_.get(), copy_.get()}) {
    if (work != nullptr) work->control.SetPaused(paused);
  }
  TakeSnapshot();
}

void MemoryNode::SetNewestEpoch(TableVersion version, Epoch epoch) {
  if (epoch <= store_.NewestEpoch(version)) return;  // every heartbeat tells it
  store_.SetNewestEpoch(version, epoch);
  ArmSnapshot();
}

void MemoryNode::SetCopyRateMax(uint64_t bytes_per_s) { copier_.SetRateMax(bytes_per_s); }

Status MemoryNode::FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte) {
  return store_.FlipByte(version, slot, row, byte);
}

void MemoryNode::ArmTick() {
  if (tick_armed_) return;
  if (copy_ == nullptr && !store_.NeedsReclaim() && !AnyAwaitsSource()) return;
  tick_armed_ = true;
  tick_timer_.expires_after(kTick);
  tick_timer_.async_wait([this, alive = std::weak_ptr<int>(alive_)](boost::system::error_code ec) {
    if (ec || alive.expired()) return;
    tick_armed_ = false;
    Tick();
  });
}

void MemoryNode::Tick() {
  if (store_.Reclaim()) {
    for (auto& [number, version] : versions_) {
      if (!version.repair_error.ok()) Repair(&version);
      Changed(&version);
    }
  }
  StartWork();
  const SlotStoreFigures memory = store_.figures();
  for (auto& [number, version] : versions_) {
    if (!version.placed || store_.UnplacedCount(number) == 0) continue;
    if (memory.leaving_bytes + memory.waiting_bytes + memory.replacing_bytes > 0) continue;
    // All is free that was about to be, and it is not enough, or in too small pieces.
    version.placed = false;
    Fail(&version, {StatusCode::kResourceExhausted,
                    std::to_string(store_.UnplacedCount(number)) +
                        " slots found no memory although nothing else waits for readers: raise "
                        "--memory, or add memory nodes"});
    Changed(&version);
  }
  TakeSnapshot();
  ArmTick();
}

void MemoryNode::Changed(Version* version) {
  version->changed = true;
  ArmSnapshot();
}

void MemoryNode::ArmSnapshot() {
  if (snapshot_armed_) return;
  snapshot_armed_ = true;
  snapshot_timer_.expires_after(kSnapshotDelay);
  snapshot_timer_.async_wait(
      [this, alive = std::weak_ptr<int>(alive_)](boost::system::error_code ec) {
        if (ec || alive.expired()) return;
        snapshot_armed_ = false;
        TakeSnapshot();
      });
}

void MemoryNode::TakeSnapshot() {
  auto taken = std::make_shared<NodeSnapshot>();
  for (auto& [number, version] : versions_) {
    if (version.changed) {
      HeldVersion& told = version.told;
      told.version = number;
      told.revision = version.assignment.revision;
      told.change = ++changes_;
      told.slots_assigned = version.assignment.slots.size();
      told.bytes_total = store_.HeldBytes(number);
      told.bytes_ready = store_.ReadyBytes(number);
      told.slots_unplaced = store_.UnplacedCount(number);
      told.ready = std::make_shared<const std::vector<AssignedSlot>>(store_.ReadySlots(number));
      told.error = version.error.ok() ? version.repair_error : version.error;
      told.slots_damaged = version.damage.size();
      told.damaged.clear();
      for (const auto& [slot, damage] : version.damage) {
        if (!damage.named) told.damaged.push_back(slot);
      }
      version.changed = false;
    }
    version.told.newest_epoch = store_.NewestEpoch(number);  // no change that the coordinator wants
    taken->versions.push_back(version.told);
  }
  taken->memory = store_.figures();
  taken->loading = load_ != nullptr || copy_ != nullptr;
  taken->loading_paused = loading_paused_;
  taken->loads_failed = loads_failed_;
  taken->bytes_copied = bytes_copied_;
  if (copy_ != nullptr) {
    taken->copy_bytes_per_s = copier_.bytes_per_s();
    taken->bytes_copied += copy_->control.bytes_done();
  }
  taken->copy_bytes_per_s_max = copier_.rate_max();
  taken->slots_copied = slots_copied_;
  taken->slots_not_copied = slots_not_copied_;
  taken->corrupt_rows_found = corrupt_rows_found_;
  taken->rows_repaired = rows_repaired_;
  taken->reports_unconfirmed = reports_unconfirmed_;
  taken->bytes_scrubbed = scrubber_.bytes_checked();
  taken->scrub_passes = scrub_passes_;
  taken->scrub_last_pass = scrub_last_pass_;
  taken->scrub_bytes_per_s_max = options_.scrub_bytes_per_s_max;
  const std::lock_guard lock(snapshot_mutex_);
  snapshot_ = std::move(taken);
}

std::shared_ptr<const NodeSnapshot> MemoryNode::snapshot() const {
  const std::lock_guard lock(snapshot_mutex_);
  return snapshot_;
}

}  // namespace engram
