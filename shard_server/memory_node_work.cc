// What a memory node does to fill its slots: which work comes next, its start and its end.
#include <algorithm>
#include <exception>
#include <utility>

#include <boost/asio/post.hpp>
#include <spdlog/spdlog.h>

#include "engram/base/check.h"
#include "engram/base/thread_role.h"
#include "shard_server/memory_node.h"

namespace engram {

// Null: from the checkpoint.
const SourceNode* MemoryNode::SourceOf(const Version& version, size_t position) const {
  const SlotAssignment& assignment = version.assignment;
  const SlotOrigin origin = assignment.origin(position);
  if (origin.source == kFromCheckpoint || !options_.make_transport) return nullptr;
  const SourceNode& source = assignment.sources[origin.source];
  const auto failed = version.failed_sources.find(assignment.slots[position].slot);
  const bool has_failed =
      failed != version.failed_sources.end() && failed->second == source.incarnation;
  return has_failed ? nullptr : &source;
}

std::optional<MemoryNode::Choice> MemoryNode::Choose(WorkKind kind) {
  std::optional<Choice> best;
  for (auto& [number, version] : versions_) {
    if (!version.placed) continue;
    const bool failing = version.failures > 0 && SteadyClock().Now() < version.retry_at;
    if (kind == WorkKind::kLoad && failing) continue;
    const std::vector<AssignedSlot>& assigned = version.assignment.slots;
    size_t position = 0;
    for (const EmptySlot& slot : store_.IdleSlots(number)) {
      while (assigned[position].slot < slot.slot) ++position;
      ENGRAM_CHECK(assigned[position].slot == slot.slot);
      if (AwaitsSource(version, slot.slot)) continue;
      if ((SourceOf(version, position) != nullptr) != (kind == WorkKind::kCopy)) continue;
      const uint32_t rank = version.assignment.origin(position).rank;
      if (best.has_value() && best->rank <= rank &&
          (best->rank < rank || best->version != &version)) {
        continue;
      }
      if (!best.has_value() || rank < best->rank) best = Choice{&version, rank, {}};
      if (kind == WorkKind::kLoad || best->slots.size() < options_.copy_slots_max) {
        best->slots.push_back(slot);
      }
    }
  }
  return best;
}

void MemoryNode::StartWork() {
  if (load_ == nullptr) StartLoad();
  if (copy_ == nullptr) StartCopy();
}

std::unique_ptr<MemoryNode::Work> MemoryNode::MakeWork(const Choice& choice) {
  auto work = std::make_unique<Work>();
  work->version = choice.version->assignment.version;
  work->rank = choice.rank;
  work->slots = choice.slots;
  work->control.SetPaused(loading_paused_);
  store_.Pin(work->slots);
  return work;
}

void MemoryNode::Run(Work* to, std::function<Status()> work,
                     void (MemoryNode::*end)(const Status&)) {
  to->thread = std::thread([this, alive = std::weak_ptr<int>(alive_), work = std::move(work), end] {
    Status status;
    try {
      status = work();
    } catch (const std::exception& error) {
      status = {StatusCode::kInternal, std::string("loading threw: ") + error.what()};
    }
    boost::asio::post(executor_, [this, alive, status, end] {
      if (!alive.expired()) (this->*end)(status);
    });
  });
}

OnSlotLoaded MemoryNode::WhenLoaded(TableVersion number, WorkKind kind) {
  return [this, alive = std::weak_ptr<int>(alive_), number, kind](const EmptySlot& slot,
                                                                  SlotDigest digest) {
    boost::asio::post(executor_, [this, alive, number, kind, slot, digest] {
      if (!alive.expired()) OnLoaded(number, kind, slot, digest);
    });
  };
}

void MemoryNode::StartLoad() {
  const std::optional<Choice> choice = Choose(WorkKind::kLoad);
  if (!choice.has_value()) return;
  const SlotAssignment& assignment = choice->version->assignment;
  load_ = MakeWork(*choice);
  LoadJob job;
  job.version = assignment.version;
  job.identity = assignment.identity;
  job.layout = store_.layout(assignment.version);
  job.checkpoint = assignment.checkpoint;
  job.slots = load_->slots;
  spdlog::info("version {}: loading {} slots of rank {} from {}", job.version.value(),
               job.slots.size(), choice->rank, job.checkpoint.string());
  auto on_loaded = WhenLoaded(job.version, WorkKind::kLoad);
  Run(
      load_.get(),
      [this, job = std::move(job), on_loaded = std::move(on_loaded), control = &load_->control] {
        return options_.load_function(job, options_.load, control, on_loaded);
      },
      &MemoryNode::OnLoadEnd);
  Changed(choice->version);
}

void MemoryNode::StartCopy() {
  const std::optional<Choice> choice = Choose(WorkKind::kCopy);
  if (!choice.has_value()) return;
  const bool urgent_load = load_ && load_->rank == 0 && !load_->dropped;
  if (urgent_load && choice->rank > 0) return;
  const SlotAssignment& assignment = choice->version->assignment;
  copy_ = MakeWork(*choice);
  CopyJob job;
  job.version = assignment.version;
  job.identity = assignment.identity;
  job.layout = store_.layout(assignment.version);
  for (const SourceNode& source : assignment.sources) {
    job.sources.push_back({source.id, source.data_address, source.incarnation});
  }
  size_t position = 0;
  for (const EmptySlot& slot : copy_->slots) {
    while (assignment.slots[position].slot < slot.slot) ++position;
    job.slots.push_back({slot, assignment.origin(position).source});
  }
  spdlog::info("version {}: copying {} slots of rank {} from other nodes", job.version.value(),
               job.slots.size(), choice->rank);
  std::map<SlotIndex, Incarnation> sources;
  for (const CopySlot& slot : job.slots) {
    sources[slot.slot.slot] = job.sources[slot.source].incarnation;
  }
  auto on_failed = [this, alive = std::weak_ptr<int>(alive_), number = job.version,
                    sources = std::move(sources)](const EmptySlot& slot, const Status& /*why*/) {
    boost::asio::post(executor_, [this, alive, number, slot, source = sources.at(slot.slot)] {
      if (!alive.expired()) OnCopyFailed(number, slot, source);
    });
  };
  auto on_loaded = WhenLoaded(job.version, WorkKind::kCopy);
  Run(
      copy_.get(),
      [this, job = std::move(job), on_loaded = std::move(on_loaded),
       on_failed = std::move(on_failed), control = &copy_->control] {
        BecomeComputeThread();  // checking rows must not delay the threads that answer readers
        return copier_.Copy(job, control, on_loaded, on_failed);
      },
      &MemoryNode::OnCopyEnd);
  Changed(choice->version);
  ArmTick();
}

void MemoryNode::OnLoaded(TableVersion number, WorkKind kind, const EmptySlot& slot,
                          SlotDigest digest) {
  if (kind == WorkKind::kCopy) ++slots_copied_;
  const bool replaces = store_.IsReplacement(number, slot);
  Status status = store_.Publish(number, slot.slot, slot.rows, digest);
  if (!status.ok()) spdlog::error("{}", status.message());
  const auto found = versions_.find(number);
  if (found == versions_.end()) return;
  Changed(&found->second);
  if (!replaces) return;
  if (status.ok()) {
    OnReplaced(&found->second, slot.slot);
  } else {
    FailRepair(&found->second, std::move(status));
  }
}

void MemoryNode::OnCopyFailed(TableVersion number, const EmptySlot& slot, Incarnation source) {
  ++slots_not_copied_;
  const auto found = versions_.find(number);
  if (found == versions_.end()) return;
  found->second.failed_sources.insert_or_assign(slot.slot, source);
}

void MemoryNode::SourceFailed(Version* version, SlotIndex slot) {
  const std::vector<AssignedSlot>& assigned = version->assignment.slots;
  const auto found = std::lower_bound(
      assigned.begin(), assigned.end(), slot,
      [](const AssignedSlot& entry, SlotIndex wanted) { return entry.slot < wanted; });
  if (found == assigned.end() || found->slot != slot) return;
  const auto position = static_cast<size_t>(found - assigned.begin());
  if (const SourceNode* const source = SourceOf(*version, position); source != nullptr) {
    version->failed_sources.insert_or_assign(slot, source->incarnation);
  }
}

MemoryNode::Version* MemoryNode::EndWork(std::unique_ptr<Work>* work) {
  const std::unique_ptr<Work> ended = std::move(*work);
  ended->thread.join();
  store_.Unpin(ended->slots);
  if (ended->dropped) return nullptr;
  const auto found = versions_.find(ended->version);
  return found == versions_.end() ? nullptr : &found->second;
}

void MemoryNode::OnLoadEnd(const Status& status) {
  const bool preempted = load_->preempted && status.code() == StatusCode::kCancelled;
  if (Version* const version = EndWork(&load_); version != nullptr) {
    if (status.ok()) {
      version->failures = 0;
      version->error = {};
      NoteRefused(version);
    } else if (!preempted) {
      ++loads_failed_;
      version->failed_sources.clear();
      Fail(version, status);
    }
    Changed(version);
  }
  StartWork();
  TakeSnapshot();
}

void MemoryNode::OnCopyEnd(const Status& status) {
  bytes_copied_ += copy_->control.bytes_done();
  const std::vector<EmptySlot> slots = copy_->slots;
  const TableVersion ended = copy_->version;
  if (Version* const version = EndWork(&copy_); version != nullptr) {
    if (!status.ok() && status.code() != StatusCode::kCancelled) {
      // A copy tells of each slot; it has no errors of its own but bugs. No endless round of them.
      spdlog::error("version {}: {}", version->assignment.version.value(), status.ToString());
      for (const EmptySlot& slot : slots) SourceFailed(version, slot.slot);
    }
    // What a load failed to bring has come all the same.
    if (version->failures > 0 && version->placed && store_.EmptyCount(ended) == 0 &&
        store_.ReplacingCount(ended) == 0) {
      version->failures = 0;
      version->error = {};
      NoteRefused(version);
    }
    Changed(version);
  }
  StartWork();
  TakeSnapshot();
}

void MemoryNode::Redirect() {
  if (check_.has_value() && store_.ReadyRows(check_->version, check_->slot) != check_->rows) {
    scrubber_.Hurry();  // its memory is wanted back
  }
  for (Work* const work : {load_.get(), copy_.get()}) {
    if (work == nullptr || work->dropped) continue;
    std::vector<SlotIndex> unwanted;
    for (const EmptySlot& slot : work->slots) {
      if (!store_.IsWanted(work->version, slot)) unwanted.push_back(slot.slot);
    }
    work->control.Drop(unwanted);
    const auto next = Choose(work == load_.get() ? WorkKind::kLoad : WorkKind::kCopy);
    if (!next.has_value() || next->rank >= work->rank) continue;
    spdlog::info("version {}: work of rank {} gives way to rank {}", work->version.value(),
                 work->rank, next->rank);
    work->preempted = true;
    work->control.Cancel();
  }
}

}  // namespace engram
