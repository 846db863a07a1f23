// Table versions: made beside each other, switched between, dropped.
#include <algorithm>
#include <utility>

#include "coordinator/cluster_state.h"

namespace engram {
namespace {

Status NoVersion(TableVersion version) {
  return Status(StatusCode::kNotFound, "there is no table version " +
                                           std::to_string(version.value()) +
                                           " (engramctl status lists them)");
}

}  // namespace

void ClusterState::On(const VersionRequested& event, MonotonicTime /*now*/,
                      ClusterEffects* effects) {
  auto layout = TableLayout::Create(event.spec);
  if (!layout.has_value()) {
    effects->status = layout.error();
    return;
  }
  if (versions_.size() >= kVersionsMax || event.checkpoint_path.size() > kPathBytesMax) {
    effects->status = Status(StatusCode::kResourceExhausted,
                             std::to_string(versions_.size()) + " versions exist; at most " +
                                 std::to_string(kVersionsMax) + " may: drop one");
    return;
  }
  Version version;
  for (const auto& [id, node] : nodes_) {
    if (node.up && !node.draining) version.node_ids.push_back(id);
  }
  if (version.node_ids.size() < event.expect_nodes) {
    effects->status = Status(StatusCode::kFailedPrecondition,
                             std::to_string(version.node_ids.size()) + " memory nodes are up, " +
                                 std::to_string(event.expect_nodes) +
                                 " are expected: start the others, then ask again");
    return;
  }
  const uint32_t replicas = std::max(event.replica_count, 1u);
  const TableVersion number(next_version_);
  auto placed = PlaceNew(*layout, replicas, replicas, version);
  if (!placed.has_value() && placed.error().code() == StatusCode::kResourceExhausted &&
      CanGiveUpReplica(current_)) {
    ClusterState tried = *this;  // a value: what is given up there is not given up here
    ClusterEffects nothing;
    Version& current = tried.versions_.at(current_);
    tried.GiveUpReplicas(current_, current, current.wanted_replicas - 1, &nothing);
    auto in_its_place = tried.PlaceNew(*layout, replicas, 1, version);
    if (in_its_place.has_value() && event.take_replica) {
      placed = std::move(in_its_place);
      effects->taken_from = current_;
      effects->taken_from_keeps = current.wanted_replicas;
      effects->taken_bytes = current.layout->total_bytes();
    } else if (in_its_place.has_value()) {
      placed = Error(StatusCode::kResourceExhausted,
                     placed.error().message() +
                         "; or let it take the place of one replica of each slot of version " +
                         std::to_string(current_.value()) +
                         " until that one is dropped (engramctl create-version --take-replica)");
    }
  }
  if (!placed.has_value()) {
    effects->status = placed.error();
    return;
  }
  effects->replicas_at_first = placed->wanted_replicas;
  if (event.dry_run) return;
  if (effects->taken_from != TableVersion()) {
    Version& current = versions_.at(current_);
    effects->notes.push_back("version " + std::to_string(current_.value()) +
                             " gives up one replica of each slot: memory is short");
    GiveUpReplicas(current_, current, current.wanted_replicas - 1, effects);
  }
  ++next_version_;
  version.spec = event.spec;
  version.identity = event.identity;
  version.checkpoint_path = event.checkpoint_path;
  version.make_current = event.make_current;
  version.layout = std::make_shared<const TableLayout>(*std::move(layout));
  ShapeVersion(version, replicas);
  ShardMap map;
  map.version = number;
  map.replica_count = replicas;
  map.owners = std::move(placed->owners);
  version.target = map.owners;
  version.wanted_replicas = placed->wanted_replicas;
  version.map = std::make_shared<const ShardMap>(std::move(map));
  for (Holding& holding : version.holdings) NewRevision(holding);
  effects->notes.push_back("version " + std::to_string(number.value()) + " of " +
                           event.checkpoint_path + ": " +
                           std::to_string(version.layout->slot_count()) + " slots on " +
                           std::to_string(version.node_ids.size()) + " nodes");
  versions_[number] = std::move(version);
  PersistCluster(effects);
  PersistOwners(number, versions_.at(number), effects);
  PublishMap(number, effects);
  effects->created = number;
}

void ClusterState::ShapeVersion(Version& version, uint32_t replica_count) const {
  const uint32_t slots = version.layout->slot_count();
  version.digests.assign(slots, 0);
  version.ready.assign(size_t{slots} * replica_count, 0);
  version.ready_replicas.assign(slots, 0);
  version.holdings.resize(version.node_ids.size());
}

void ClusterState::BecomeReadyIfComplete(TableVersion number, ClusterEffects* effects) {
  Version& version = versions_.at(number);
  if (version.was_ready || version.slots_ready < version.layout->slot_count()) return;
  version.was_ready = true;
  effects->notes.push_back("version " + std::to_string(number.value()) + " is ready");
  if (version.make_current && number > current_) {
    previous_ = std::exchange(current_, number);
    PersistCluster(effects);
    effects->notes.push_back("version " + std::to_string(number.value()) + " is current");
  }
  PublishMap(number, effects);  // wakes the clients that wait for it
}

void ClusterState::On(const VersionSwitched& event, MonotonicTime /*now*/,
                      ClusterEffects* effects) {
  const TableVersion wanted = event.version == TableVersion() ? previous_ : event.version;
  if (wanted == TableVersion()) {
    effects->status =
        Status(StatusCode::kFailedPrecondition, "there is no previous version to go back to");
    return;
  }
  const auto found = versions_.find(wanted);
  if (found == versions_.end()) {
    effects->status = NoVersion(wanted);
    return;
  }
  const Version& version = found->second;
  if (!Ready(wanted)) {
    effects->status =
        Status(StatusCode::kFailedPrecondition,
               "version " + std::to_string(wanted.value()) +
                   " is not ready: " + std::to_string(version.slots_ready) + " of " +
                   std::to_string(version.layout->slot_count()) + " slots are; wait until it is");
    return;
  }
  if (wanted == current_) return;
  previous_ = std::exchange(current_, wanted);
  PersistCluster(effects);
  effects->wake = true;
  effects->notes.push_back("version " + std::to_string(wanted.value()) + " is current, " +
                           std::to_string(previous_.value()) + " was");
}

void ClusterState::On(const VersionDropped& event, MonotonicTime /*now*/, ClusterEffects* effects) {
  const auto found = versions_.find(event.version);
  if (found == versions_.end()) {
    effects->status = NoVersion(event.version);
    return;
  }
  if (event.version == current_) {
    effects->status =
        Status(StatusCode::kFailedPrecondition, "version " + std::to_string(event.version.value()) +
                                                    " is the current one: switch to another first");
    return;
  }
  ForgetVersion(event.version, found->second, effects);
  versions_.erase(found);
  if (previous_ == event.version) previous_ = TableVersion();
  PersistCluster(effects);
  effects->wake = true;
  effects->notes.push_back("version " + std::to_string(event.version.value()) + " is dropped");
  Replan(effects);  // where memory was short, it may be no longer
}

Status ClusterState::CountReport(const std::string& reader, MonotonicTime now) {
  if (now - reports_since_ >= kSlotReportAgain) {
    reports_.clear();
    reports_of_all_ = 0;
    reports_since_ = now;
  }
  uint32_t& count = reports_[reader.substr(0, kNodeIdBytesMax)];
  if (count >= kSlotReportsPerReader || reports_of_all_ >= kSlotReportsOfAll) {
    // Names of readers that were refused would be kept otherwise, as many as they like.
    if (count == 0) reports_.erase(reader.substr(0, kNodeIdBytesMax));
    return Status(StatusCode::kResourceExhausted,
                  "more slots were reported within " + std::to_string(kSlotReportAgain.count()) +
                      " s than are taken (" + std::to_string(kSlotReportsPerReader) +
                      " of a reader, " + std::to_string(kSlotReportsOfAll) +
                      " of all): report it again later, or leave it to the node's scrubbing");
  }
  ++count;
  ++reports_of_all_;
  return Status();
}

// Nothing is noted, counted or repaired but what a reader can have found: rows that this node's
// process serves now.
void ClusterState::On(const SlotReported& event, MonotonicTime now, ClusterEffects* effects) {
  const auto found = versions_.find(event.version);
  if (found == versions_.end() || event.slot.value() >= found->second.layout->slot_count()) {
    effects->status = Status(StatusCode::kNotFound, "no such slot");
    return;
  }
  Version& version = found->second;
  const auto node = nodes_.find(event.node_id);
  const NodeIndex index = IndexOf(version, event.node_id);
  const std::span<const NodeIndex> owners = version.map->Replicas(event.slot);
  if (node == nodes_.end() || index == kNoNode ||
      std::find(owners.begin(), owners.end(), index) == owners.end()) {
    effects->status =
        Status(StatusCode::kNotFound,
               "slot " + std::to_string(event.slot.value()) + " of version " +
                   std::to_string(event.version.value()) + " is not on node '" +
                   event.node_id.substr(0, kNodeIdBytesMax) + "': ask for the shard map again");
    return;
  }
  if (node->second.description.incarnation() != event.incarnation.value()) {
    return;  // that memory is gone, and its damage with it
  }
  Holding& holding = version.holdings[index.value()];
  const uint32_t slot = event.slot.value();
  const auto before = holding.reported.find(slot);
  const bool known = before != holding.reported.end() && now - before->second < kSlotReportAgain;
  if (known || holding.damaged.contains(slot)) return;  // somebody else saw it too
  effects->status = CountReport(event.reader, now);
  if (!effects->status.ok()) return;
  holding.reported[slot] = now;
  ++version.damaged_slot_reports;
  effects->notes.push_back("a reader found damaged rows in slot " + std::to_string(slot) +
                           " of version " + std::to_string(event.version.value()) + " on node " +
                           event.node_id);
  holding.damaged.insert(slot);
  NewRevision(holding);
  effects->wake = true;
}

}  // namespace engram
