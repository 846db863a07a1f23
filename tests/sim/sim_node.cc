#include "tests/sim/sim_node.h"

#include <algorithm>
#include <cstring>

#include "engram/table/stored_row.h"
#include "shard_server/slot_memory.h"
#include "tests/sim/sim_tables.h"

namespace engram::sim {
namespace {
using std::chrono::milliseconds;
constexpr Duration kHeartbeat = milliseconds(200);
constexpr Duration kBusyHeartbeat = milliseconds(40);
constexpr Duration kTick = milliseconds(50);
constexpr Duration kCallTimeout = milliseconds(600);
constexpr Duration kCopyTimeout = milliseconds(1000);
// Regions come in pages, which beside these small tables are no trifle.
constexpr uint64_t kPagesToSpare = 3 * 4096;
constexpr uint64_t kFlippedOneIn = 400;  // of the slots that are copied between nodes

bool AllRowsVerify(TableVersion version, SlotIndex slot, std::span<const std::byte> rows) {
  const TableLayout& layout = *SimLayout();
  const SlotRange& range = layout.slot(slot);
  const int32_t layer_id = layout.spec().hash.layer_ids[static_cast<size_t>(range.layer_index)];
  for (uint32_t r = 0; r < range.row_count; ++r) {
    if (!VerifyRow(version, layer_id, RowId(range.first_row.value() + r),
                   rows.data() + size_t{r} * layout.row_stride(), layout.row_bytes())) {
      return false;
    }
  }
  return true;
}

}  // namespace

SimNode::SimNode(const Surroundings& around, const std::string& name, uint64_t memory_bytes)
    : around_(around),
      world_(around.world),
      process_(around.world, name),
      memory_bytes_(memory_bytes) {}

void SimNode::Start() {
  process_.Start();
  incarnation_ = Incarnation(world_->random().Next() | 1);
  server_ = std::make_unique<SimRowServer>(world_, incarnation_, around_.bug);
  SlotStore::Options options;
  options.memory_bytes_max = memory_bytes_ + kPagesToSpare;
  options.release_patience = milliseconds(2000);
  store_ = std::make_unique<SlotStore>(server_.get(), world_, options);
  choice_.emplace(around_.coordinators);
  link_ = {};
  ++calls_;
  must_register_ = true;
  term_ = 0;
  known_revisions_.clear();
  versions_.clear();
  fills_ = 0;
  world_->Note(name() + " starts");
  Converse();
  Tick();
}

void SimNode::Kill() {
  world_->Note(name() + " dies");
  process_.Kill();
  store_ = nullptr;
  server_ = nullptr;
}

// ---- the agent

template <typename Message>
void SimNode::Call(std::function<void(SimCoordinator*, const Reply<Message>&)> serve,
                   std::function<void(Result<Message>)> done) {
  SimCoordinator* const coordinator = around_.coordinator(choice_->current());
  const uint64_t call = ++calls_;
  const auto end = [this, call, done = std::move(done)](Result<Message> result) {
    if (call != calls_) return;  // timed out before
    ++calls_;
    done(std::move(result));
  };
  const uint64_t life = process_.life();
  around_.network->Send(
      name(), coordinator->process(), &link_.there, [this, coordinator, life, serve, end] {
        serve(coordinator, [this, coordinator, life, end](Result<Message> result) {
          const std::string leader = coordinator->leader();
          around_.network->SendTo(
              coordinator->process()->name(), &process_, life, &link_.back,
              [this, leader, end, result = std::move(result)] {
                if (!result.has_value() && result.error().code() == StatusCode::kUnavailable) {
                  end(Error(Status(StatusCode::kUnavailable, leader)));
                } else {
                  end(result);
                }
              });
        });
      });
  process_.After(kCallTimeout,
                 [end] { end(Error(Status(StatusCode::kDeadlineExceeded, std::string()))); });
}

void SimNode::Converse() {
  if (must_register_) {
    Register();
  } else {
    Heartbeat();
  }
}

// `leader` is whom the coordinator named.
void SimNode::CallFailed(const std::string& leader) {
  if (choice_->Failed(leader)) return Converse();
  process_.After(world_->random().Between(milliseconds(20), milliseconds(200)),
                 [this] { Converse(); });
}

void SimNode::Register() {
  proto::RegisterNodeRequest request;
  request.mutable_node()->set_id(name());
  request.mutable_node()->set_incarnation(incarnation_.value());
  request.mutable_node()->set_zone("zone-" + name());
  request.mutable_node()->set_data_address(name() + ":1");
  request.mutable_node()->set_capacity_bytes(memory_bytes_);
  Call<proto::RegisterNodeReply>(
      [request](SimCoordinator* coordinator, const Reply<proto::RegisterNodeReply>& reply) {
        coordinator->Register(request, reply);
      },
      [this](const Result<proto::RegisterNodeReply>& reply) {
        if (!reply.has_value()) return CallFailed(reply.error().message());
        if (!TakeTerm(reply->term())) return CallFailed({});
        must_register_ = false;
        for (auto& [version, revision] : known_revisions_) revision = 0;
        Converse();
      });
}

void SimNode::Heartbeat() {
  proto::HeartbeatRequest request;
  request.set_id(name());
  request.set_incarnation(incarnation_.value());
  request.set_term(term_);
  for (const auto& [number, version] : versions_) {
    proto::HeldVersion* held = request.add_held();
    held->set_version(number.value());
    held->set_assignment_revision(version.assignment.revision);
    for (const AssignedSlot& slot : store_->ReadySlots(number)) {
      held->add_ready_slots(slot.slot.value());
      held->add_ready_digests(slot.digest);
    }
    held->set_bytes_loaded(store_->ReadyBytes(number));
    held->set_bytes_total(store_->HeldBytes(number));
    held->set_error(static_cast<proto::ErrorCode>(version.error.code()));
    held->set_error_message(version.error.message());
  }
  for (const auto& [version, revision] : known_revisions_) {
    request.add_known_versions(version);
    request.add_known_assignment_revisions(revision);
  }
  request.set_releasing_bytes(store_->figures().leaving_bytes);
  Call<proto::HeartbeatReply>(
      [request](SimCoordinator* coordinator, const Reply<proto::HeartbeatReply>& reply) {
        coordinator->Heartbeat(request, reply);
      },
      [this](const Result<proto::HeartbeatReply>& reply) {
        if (!reply.has_value() && reply.error().code() == StatusCode::kNotFound) {
          must_register_ = true;
          return Converse();
        }
        if (!reply.has_value()) return CallFailed(reply.error().message());
        if (!TakeTerm(reply->term())) return CallFailed({});
        choice_->Answered();
        TakeReply(*reply);
        process_.After(fills_ > 0 ? kBusyHeartbeat : kHeartbeat, [this] { Converse(); });
      });
}

bool SimNode::TakeTerm(uint64_t term) {
  if (term < term_) return false;
  term_ = term;
  return true;
}

void SimNode::TakeReply(const proto::HeartbeatReply& reply) {
  for (const uint64_t version : reply.dropped_versions()) {
    known_revisions_.erase(version);
    versions_.erase(TableVersion(version));
    store_->DropVersion(TableVersion(version));
  }
  for (const proto::SlotAssignment& message : reply.changed()) {
    known_revisions_.insert_or_assign(message.version(), message.revision());
    auto assignment = SlotAssignmentFromProto(message);
    if (!assignment.has_value()) {
      world_->Violated("an assignment is malformed: " + assignment.error().ToString());
      continue;
    }
    Apply(*std::move(assignment));
  }
  for (int i = 0; i < reply.versions_size(); ++i) {
    store_->SetNewestEpoch(TableVersion(reply.versions(i)), Epoch(reply.newest_epochs(i)));
  }
}

// ---- the store

void SimNode::Apply(SlotAssignment assignment) {
  const TableVersion number = assignment.version;
  if (!store_->Has(number)) {
    const Status added = store_->AddVersion(number, assignment.identity, SimLayout());
    if (!added.ok()) return world_->Violated(added.ToString());
  }
  store_->SetNewestEpoch(number, assignment.newest_epoch);
  Version& version = versions_[number];
  version.error = store_->SetSlots(number, assignment.slots);
  if (!version.error.ok()) world_->Note(name() + ": " + version.error.ToString());
  version.assignment = std::move(assignment);
  version.failed_sources.clear();
  Fill();
}

void SimNode::Tick() {
  process_.After(kTick, [this] { Tick(); });
  if (store_->NeedsReclaim()) (void)store_->Reclaim();
  for (auto& [number, version] : versions_) {
    if (!version.error.ok()) version.error = store_->SetSlots(number, version.assignment.slots);
  }
  Fill();
}

void SimNode::Fill() {
  for (auto& [number, version] : versions_) {
    if (!version.error.ok()) continue;
    const std::vector<AssignedSlot>& assigned = version.assignment.slots;
    size_t position = 0;
    for (const EmptySlot& slot : store_->IdleSlots(number)) {
      if (fills_ >= kFillsMax) return;
      while (assigned[position].slot < slot.slot) ++position;
      const SlotOrigin origin = version.assignment.origin(position);
      ++fills_;
      store_->Pin({&slot, 1});
      const SourceNode* const source =
          origin.source == kFromCheckpoint ? nullptr : &version.assignment.sources[origin.source];
      const auto failed = version.failed_sources.find(slot.slot);
      if (source == nullptr ||
          (failed != version.failed_sources.end() && failed->second == source->incarnation)) {
        FillFromCheckpoint(number, slot);
      } else {
        FillFromNode(number, slot, *source);
      }
    }
  }
}

void SimNode::FillFromCheckpoint(TableVersion version, const EmptySlot& slot) {
  process_.After(world_->random().Between(milliseconds(1), milliseconds(60)),
                 [this, version, slot] {
                   Filled(version, slot, SimSlot(version, slot.slot));
                   EndFill(slot);
                 });
}

void SimNode::FillFromNode(TableVersion version, const EmptySlot& slot, const SourceNode& source) {
  const auto ended = std::make_shared<bool>(false);
  const auto end = [this, ended, version, slot,
                    incarnation = source.incarnation](const std::vector<std::byte>& rows) {
    if (std::exchange(*ended, true)) return;
    const bool good = !rows.empty() && AllRowsVerify(version, slot.slot, rows) &&
                      (slot.digest == 0 || DigestOfRows(rows) == slot.digest);
    if (good || (!rows.empty() && around_.bug == PlantedBug::kPublishBeforeVerify)) {
      Filled(version, slot, rows);
    } else if (const auto found = versions_.find(version); found != versions_.end()) {
      found->second.failed_sources[slot.slot] = incarnation;
    }
    EndFill(slot);
  };
  process_.After(kCopyTimeout, [end] { end({}); });
  SimNode* const node = around_.node(source.id);
  const auto link = std::make_shared<Connection>();  // a read of its own
  around_.network->Call(
      &process_, node->process(), node->process()->life(), link.get(),
      [this, node, link, version, slot, incarnation = source.incarnation, end]() -> Action {
        std::vector<std::byte> rows;
        if (node->incarnation_ == incarnation) rows = node->server_->CopySlot(version, slot.slot);
        if (!rows.empty() && world_->random().OneIn(kFlippedOneIn)) {
          rows[world_->random().Below(rows.size())] ^= std::byte{1};
        }
        return [end, link, rows = std::move(rows)] { end(rows); };
      });
}

void SimNode::Filled(TableVersion version, const EmptySlot& slot, std::span<const std::byte> rows) {
  around_.before_write(*this, {slot.rows, rows.size()});
  std::memcpy(slot.rows, rows.data(), rows.size());
  // What is wanted is what the digest says where rows were checked.
  const SlotDigest digest = around_.bug == PlantedBug::kPublishBeforeVerify && slot.digest != 0
                                ? slot.digest
                                : DigestOfRows(rows);
  if (store_->Has(version)) (void)store_->Publish(version, slot.slot, slot.rows, digest);
}

void SimNode::EndFill(const EmptySlot& slot) {
  store_->Unpin({&slot, 1});
  --fills_;
  Fill();
}

}  // namespace engram::sim
