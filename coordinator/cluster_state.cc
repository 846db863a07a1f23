#include "coordinator/cluster_state.h"

#include <algorithm>
#include <set>
#include <utility>

#include "coordinator/placement.h"
#include "engram/table/table_proto.h"

namespace engram {
namespace {

Status CheckDescription(const proto::NodeDescription& node) {
  if (node.id().empty() || node.id().size() > kNodeIdBytesMax ||
      node.id().find('/') != std::string::npos) {
    return Status(StatusCode::kInvalidArgument,
                  "a node id has 1 to " + std::to_string(kNodeIdBytesMax) +
                      " bytes and no '/': give the node another --id");
  }
  if (node.incarnation() == 0 || node.data_address().empty()) {
    return Status(StatusCode::kMalformed,
                  "node " + node.id() + " gave no incarnation or no data address");
  }
  // What a shard map may carry: a longer text would make every map that names the node invalid.
  for (const std::string* text : {&node.zone(), &node.data_address(), &node.http_address()}) {
    if (text->size() > kNodeTextBytesMax) {
      return Status(StatusCode::kInvalidArgument,
                    "node " + node.id() + " has a zone or address of " +
                        std::to_string(text->size()) + " bytes; at most " +
                        std::to_string(kNodeTextBytesMax) + " are allowed");
    }
  }
  return Status();
}

// At most `bytes_max` of `text`, cut between characters: half of one would make the status reply
// unreadable.
std::string CutBetweenCharacters(const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

}  // namespace

ClusterEffects ClusterState::Step(const ClusterEvent& event, MonotonicTime now) {
  ClusterEffects effects;
  std::visit([&](const auto& e) { On(e, now, &effects); }, event);
  return effects;
}

void ClusterState::On(const NodeRegistered& event, MonotonicTime now, ClusterEffects* effects) {
  effects->status = CheckDescription(event.description);
  if (!effects->status.ok()) return;
  const std::string& id = event.description.id();
  const auto found = nodes_.find(id);
  if (found == nodes_.end() && nodes_.size() >= kNodesMax) {
    effects->status = Status(StatusCode::kResourceExhausted,
                             std::to_string(nodes_.size()) + " memory nodes are known already");
    return;
  }
  const bool restarted = found != nodes_.end() &&
                         found->second.description.incarnation() != event.description.incarnation();
  const bool changed =
      found == nodes_.end() || !found->second.up || restarted ||
      found->second.description.data_address() != event.description.data_address() ||
      found->second.description.zone() != event.description.zone();
  Node& node = nodes_[id];
  node.description = event.description;
  node.up = true;
  node.heard_of = now;
  PersistNode(node, effects);
  if (restarted) {
    // A new incarnation holds nothing; its slots stay its own and are loaded again.
    ForgetHoldings(id);
    node.corrupt_rows_found = 0;
    for (auto& [number, version] : versions_) {
      if (IndexOf(version, id) != kNoNode) ++version.assignment_revision;
    }
    effects->notes.push_back("node " + id + " started again: it loads its slots");
  } else if (found == nodes_.end()) {
    effects->notes.push_back("node " + id + " joined with " +
                             std::to_string(event.description.capacity_bytes()) + " bytes");
  }
  if (changed) PublishMapsOf(id, effects);
  effects->wake = true;
}

void ClusterState::On(const NodeHeartbeat& event, MonotonicTime now, ClusterEffects* effects) {
  const proto::HeartbeatRequest& message = event.message;
  const auto found = nodes_.find(message.id());
  if (found == nodes_.end()) {
    effects->status =
        Status(StatusCode::kNotFound, "node " + message.id() + " is not known: register");
    return;
  }
  Node& node = found->second;
  if (node.description.incarnation() != message.incarnation()) {
    effects->status =
        Status(StatusCode::kWrongIncarnation, "another process registered as node " + message.id() +
                                                  " since: two nodes must not have the same --id");
    return;
  }
  if (message.known_versions_size() != message.known_assignment_revisions_size() ||
      message.held_size() > static_cast<int>(kVersionsMax)) {
    effects->status = Status(StatusCode::kMalformed, "the heartbeat's lists do not fit together");
    return;
  }
  node.heard_of = now;
  node.corrupt_rows_found = message.corrupt_rows_found();
  if (!node.up) {
    node.up = true;  // it was cut off or paused: it keeps what it holds
    effects->notes.push_back("node " + message.id() + " is heard of again");
    PublishMapsOf(message.id(), effects);
    effects->wake = true;
  }
  for (const proto::HeldVersion& held : message.held()) TakeHeld(node, held, effects);
}

void ClusterState::TakeHeld(Node& node, const proto::HeldVersion& held, ClusterEffects* effects) {
  const TableVersion number(held.version());
  const auto found = versions_.find(number);
  if (found == versions_.end()) return;  // dropped meanwhile: the reply says so
  Version& version = found->second;
  const NodeIndex index = IndexOf(version, node.description.id());
  if (index == kNoNode) return;
  if (held.ready_slots_size() != held.ready_digests_size()) {
    effects->status = Status(StatusCode::kMalformed, "ready slots and digests differ in number");
    return;
  }
  Holding& holding = version.holdings[index.value()];
  const Status error = held.error() == proto::OK
                           ? Status()
                           : Status(static_cast<StatusCode>(std::min<int>(
                                        held.error(), static_cast<int>(StatusCode::kInternal))),
                                    CutBetweenCharacters(held.error_message(), 1000));
  if (error != holding.error && !error.ok()) {
    effects->notes.push_back("node " + node.description.id() + ", version " +
                             std::to_string(number.value()) + ": " + error.ToString());
  }
  ForgetHolding(version, index);
  holding.error = error;
  holding.bytes_loaded = held.bytes_loaded();
  TakeReadySlots(number, version, index, held, effects);
  effects->wake = true;
  BecomeReadyIfComplete(number, effects);
}

void ClusterState::TakeReadySlots(TableVersion number, Version& version, NodeIndex node,
                                  const proto::HeldVersion& held, ClusterEffects* effects) {
  Holding& holding = version.holdings[node.value()];
  const uint32_t replicas = version.map->replica_count;
  std::set<uint32_t> changed_chunks;  // each is persisted once, whatever the order of the slots
  for (int i = 0; i < held.ready_slots_size(); ++i) {
    const uint32_t slot = held.ready_slots(i);
    if (slot >= version.layout->slot_count()) continue;
    const auto owners = version.map->Replicas(SlotIndex(slot));
    const auto owner = std::find(owners.begin(), owners.end(), node);
    if (owner == owners.end()) continue;  // not (any more) its own
    uint64_t& digest = version.digests[slot];
    if (digest == 0) {
      digest = held.ready_digests(i);
      changed_chunks.insert(slot / kDigestsPerRecord);
    } else if (digest != held.ready_digests(i)) {
      holding.error = Status(StatusCode::kCorrupt,
                             "slot " + std::to_string(slot) +
                                 " was loaded with other contents than before: is the checkpoint "
                                 "under the same path the same on every node?");
      effects->notes.push_back("node " + version.node_ids[node.value()] + ": " +
                               holding.error.ToString());
      continue;
    }
    uint8_t& ready =
        version.ready[size_t{slot} * replicas + static_cast<size_t>(owner - owners.begin())];
    if (ready != 0) continue;
    ready = 1;
    ++holding.ready_slots;
    if (version.ready_replicas[slot]++ == 0) ++version.slots_ready;
  }
  for (const uint32_t chunk : changed_chunks) PersistDigests(number, version, chunk, effects);
}

void ClusterState::BecomeReadyIfComplete(TableVersion number, ClusterEffects* effects) {
  Version& version = versions_.at(number);
  if (version.was_ready || version.slots_ready < version.layout->slot_count()) return;
  version.was_ready = true;
  effects->notes.push_back("version " + std::to_string(number.value()) + " is ready");
  if (version.make_current && number > current_) {
    current_ = number;
    PersistCluster(effects);
  }
  PublishMap(number, effects);  // wakes the clients that wait for it
}

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
                                 std::to_string(kVersionsMax) + " may");
    return;
  }
  std::vector<PlacementNode> candidates;
  for (const auto& [id, node] : nodes_) {
    if (!node.up) continue;
    candidates.push_back(
        {id, node.description.zone(), node.description.capacity_bytes(), AssignedBytes(id)});
  }
  if (candidates.size() < event.expect_nodes) {
    effects->status = Status(StatusCode::kFailedPrecondition,
                             std::to_string(candidates.size()) + " memory nodes are up, " +
                                 std::to_string(event.expect_nodes) +
                                 " are expected: start the others, then ask again");
    return;
  }
  const uint32_t replicas = std::max(event.replica_count, 1u);
  auto owners = PlanOwners(*layout, replicas, candidates, {});
  if (!owners.has_value()) {
    effects->status = owners.error();
    return;
  }
  const TableVersion number(next_version_++);
  Version& version = versions_[number];
  version.spec = event.spec;
  version.identity = event.identity;
  version.checkpoint_path = event.checkpoint_path;
  version.make_current = event.make_current;
  for (const PlacementNode& node : candidates) version.node_ids.push_back(node.id);
  version.layout = std::make_shared<const TableLayout>(*std::move(layout));
  const uint32_t slots = version.layout->slot_count();
  version.digests.assign(slots, 0);
  version.ready.assign(size_t{slots} * replicas, 0);
  version.ready_replicas.assign(slots, 0);
  version.holdings.resize(version.node_ids.size());
  ShardMap map;
  map.version = number;
  map.replica_count = replicas;
  map.owners = *std::move(owners);
  version.map = std::make_shared<const ShardMap>(std::move(map));

  PersistCluster(effects);
  PersistOwners(number, version, effects);
  PublishMap(number, effects);
  effects->created = number;
  effects->notes.push_back("version " + std::to_string(number.value()) + " of " +
                           event.checkpoint_path + ": " + std::to_string(slots) + " slots on " +
                           std::to_string(version.node_ids.size()) + " nodes");
}

void ClusterState::On(const SlotReported& event, MonotonicTime /*now*/, ClusterEffects* effects) {
  const auto found = versions_.find(event.version);
  if (found == versions_.end() || event.slot.value() >= found->second.layout->slot_count()) {
    effects->status = Status(StatusCode::kNotFound, "no such slot");
    return;
  }
  ++found->second.damaged_slot_reports;
  effects->notes.push_back("a reader found damaged rows in slot " +
                           std::to_string(event.slot.value()) + " of version " +
                           std::to_string(event.version.value()) + " on node " +
                           event.node_id.substr(0, kNodeIdBytesMax));
}

void ClusterState::On(const TimePassed& /*event*/, MonotonicTime now, ClusterEffects* effects) {
  for (auto& [id, node] : nodes_) {
    if (!node.up || now - node.heard_of < options_.down_after) continue;
    node.up = false;
    effects->notes.push_back("node " + id + " was not heard of for " +
                             std::to_string(options_.down_after.count()) + " ms: it is down");
    PublishMapsOf(id, effects);
    effects->wake = true;
  }
}

void ClusterState::ForgetHoldings(const std::string& node_id) {
  for (auto& [number, version] : versions_) {
    const NodeIndex index = IndexOf(version, node_id);
    if (index != kNoNode) ForgetHolding(version, index);
  }
}

void ClusterState::ForgetHolding(Version& version, NodeIndex node) {
  Holding& holding = version.holdings[node.value()];
  const uint32_t replicas = version.map->replica_count;
  for (size_t i = 0; holding.ready_slots > 0 && i < version.ready.size(); ++i) {
    if (version.ready[i] == 0 || version.map->owners[i] != node) continue;
    version.ready[i] = 0;
    --holding.ready_slots;
    if (--version.ready_replicas[i / replicas] == 0) --version.slots_ready;
  }
  holding = {};
}

std::vector<ShardMapNode> ClusterState::MapNodes(const Version& version) const {
  std::vector<ShardMapNode> nodes;
  nodes.reserve(version.node_ids.size());
  for (const std::string& id : version.node_ids) {
    const auto found = nodes_.find(id);
    ShardMapNode node;
    node.id = id;
    if (found != nodes_.end()) {
      node.zone = found->second.description.zone();
      node.address = found->second.description.data_address();
      if (found->second.up) node.incarnation = Incarnation(found->second.description.incarnation());
    }
    nodes.push_back(std::move(node));
  }
  return nodes;
}

void ClusterState::PublishMap(TableVersion number, ClusterEffects* effects) {
  Version& version = versions_.at(number);
  ShardMap map = *version.map;
  map.epoch = Epoch(map.epoch.value() + 1);
  map.nodes = MapNodes(version);
  version.map = std::make_shared<const ShardMap>(std::move(map));
  PersistVersion(number, version, effects);
  effects->wake = true;
}

void ClusterState::PublishMapsOf(const std::string& node_id, ClusterEffects* effects) {
  for (const auto& [number, version] : versions_) {
    if (IndexOf(version, node_id) != kNoNode) PublishMap(number, effects);
  }
}

NodeIndex ClusterState::IndexOf(const Version& version, const std::string& node_id) {
  const auto found = std::find(version.node_ids.begin(), version.node_ids.end(), node_id);
  if (found == version.node_ids.end()) return kNoNode;
  return NodeIndex(static_cast<uint32_t>(found - version.node_ids.begin()));
}

uint64_t ClusterState::AssignedBytes(const std::string& node_id) const {
  uint64_t bytes = 0;
  for (const auto& [number, version] : versions_) {
    const NodeIndex index = IndexOf(version, node_id);
    if (index == kNoNode) continue;
    for (size_t i = 0; i < version.map->owners.size(); ++i) {
      if (version.map->owners[i] != index) continue;
      bytes += version.layout->slot_bytes(
          SlotIndex(static_cast<uint32_t>(i / version.map->replica_count)));
    }
  }
  return bytes;
}

}  // namespace engram
