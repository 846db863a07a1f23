#include "shard_server/memory_node.h"

#include <algorithm>
#include <exception>
#include <utility>

#include <boost/asio/post.hpp>
#include <spdlog/spdlog.h>

#include "shard_server/byte_text.h"

namespace engram {

MemoryNode::MemoryNode(boost::asio::any_io_executor executor, RowServer* server, Options options)
    : executor_(std::move(executor)),
      options_(std::move(options)),
      store_(server, &SteadyClock(), options_.store),
      retry_timer_(executor_),
      snapshot_timer_(executor_) {
  if (!options_.load_function) options_.load_function = LoadSlots;
  TakeSnapshot();
}

MemoryNode::~MemoryNode() {
  alive_.reset();
  if (load_ == nullptr) return;
  load_->control.Cancel();
  load_->thread.join();
}

void MemoryNode::Apply(SlotAssignment assignment) {
  const TableVersion number = assignment.version;
  if (load_ != nullptr && load_->dropped && load_->version == number) {
    after_load_.insert_or_assign(number, std::move(assignment));
    return;
  }
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
  StartNextLoad();
}

void MemoryNode::Place(Version* version) {
  Status placed = PlaceSlots(version->assignment);
  version->placed = placed.ok();
  if (placed.ok()) {
    version->error = {};
    NoteRefused(version);
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
  after_load_.erase(number);
  const auto found = versions_.find(number);
  if (found == versions_.end()) return;
  spdlog::info("version {}: dropped", number.value());
  versions_.erase(found);
  if (load_ != nullptr && load_->version == number) {
    load_->dropped = true;
    load_->control.Cancel();
  }
  store_.DropVersion(number);
  TakeSnapshot();
}

void MemoryNode::StartNextLoad() {
  if (load_ != nullptr) return;
  for (auto& [number, version] : versions_) {
    if (!version.placed || store_.EmptyCount(number) == 0) continue;
    if (version.failures > 0 && SteadyClock().Now() < version.retry_at) continue;
    LoadJob job;
    job.version = number;
    job.identity = version.assignment.identity;
    job.layout = store_.layout(number);
    job.checkpoint = version.assignment.checkpoint;
    job.slots = store_.PinEmptySlots(number);
    spdlog::info("version {}: loading {} slots from {}", number.value(), job.slots.size(),
                 job.checkpoint.string());
    load_ = std::make_unique<Load>();
    load_->version = number;
    load_->control.SetPaused(loading_paused_);
    const std::weak_ptr<int> alive = alive_;
    const auto on_loaded = [this, alive, number = number](const EmptySlot& slot,
                                                          SlotDigest digest) {
      boost::asio::post(executor_, [this, alive, number, slot, digest] {
        if (!alive.expired()) OnLoaded(number, slot.slot, slot.rows, digest);
      });
    };
    load_->thread =
        std::thread([this, alive, on_loaded, job = std::move(job), control = &load_->control] {
          Status status;
          try {
            status = options_.load_function(job, options_.load, control, on_loaded);
          } catch (const std::exception& error) {
            status = {StatusCode::kInternal, std::string("loading threw: ") + error.what()};
          }
          boost::asio::post(executor_, [this, alive, status] {
            if (!alive.expired()) OnLoadEnd(status);
          });
        });
    Changed(&version);
    return;
  }
}

void MemoryNode::OnLoaded(TableVersion number, SlotIndex slot, const std::byte* rows,
                          SlotDigest digest) {
  const Status status = store_.Publish(number, slot, rows, digest);
  if (!status.ok()) spdlog::error("{}", status.message());
  if (const auto found = versions_.find(number); found != versions_.end()) Changed(&found->second);
}

void MemoryNode::OnLoadEnd(const Status& status) {
  load_->thread.join();
  const TableVersion number = load_->version;
  const bool dropped = load_->dropped;
  load_.reset();
  store_.UnpinSlots(number);
  const auto found = versions_.find(number);
  if (found != versions_.end() && !dropped) {
    Version& version = found->second;
    if (status.ok()) {
      version.failures = 0;
      version.error = {};
      NoteRefused(&version);
    } else {
      ++loads_failed_;
      Fail(&version, status);
    }
    Changed(&version);
  }
  if (auto waiting = after_load_.extract(number); !waiting.empty()) {
    Apply(std::move(waiting.mapped()));
  }
  StartNextLoad();
  TakeSnapshot();
}

void MemoryNode::ArmRetry() {
  MonotonicTime first = MonotonicTime::max();
  for (const auto& [number, version] : versions_) {
    if (version.failures > 0) first = std::min(first, version.retry_at);
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
  }
  StartNextLoad();
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
  if (load_ != nullptr) load_->control.SetPaused(paused);
  TakeSnapshot();
}

Status MemoryNode::FlipByte(TableVersion version, SlotIndex slot, uint32_t row, uint32_t byte) {
  return store_.FlipByte(version, slot, row, byte);
}

void MemoryNode::Changed(Version* version) {
  version->changed = true;
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
      told.ready = std::make_shared<const std::vector<AssignedSlot>>(store_.ReadySlots(number));
      told.error = version.error;
      version.changed = false;
    }
    taken->versions.push_back(version.told);
  }
  taken->memory = store_.figures();
  taken->loading = load_ != nullptr;
  taken->loading_paused = loading_paused_;
  taken->loads_failed = loads_failed_;
  const std::lock_guard lock(snapshot_mutex_);
  snapshot_ = std::move(taken);
}

std::shared_ptr<const NodeSnapshot> MemoryNode::snapshot() const {
  const std::lock_guard lock(snapshot_mutex_);
  return snapshot_;
}

}  // namespace engram
