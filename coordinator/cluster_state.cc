// Nodes: they come, tell what they hold, fall silent, are drained and forgotten. Versions are in
// cluster_versions.cc, moves in cluster_moves.cc.
#include "coordinator/cluster_state.h"

#include <algorithm>
#include <utility>

namespace engram {
namespace {

Status CheckDescription(const proto::NodeDescription& node) {
  if (node.id().empty() || node.id().size() > kNodeIdBytesMax ||
      node.id().find('/') != std::string::npos) {
    return Status(StatusCode::kInvalidArgument,
                  "a node id has 1 to " + std::to_string(kNodeIdBytesMax) +
                      " bytes and no '/': give the node another --id");
  }
  if (std::any_of(node.id().begin(), node.id().end(),
                  [](unsigned char c) { return c < ' ' || c == 0x7f; })) {
    return Status(StatusCode::kInvalidArgument,
                  "a node id has no control characters: give the node another --id");
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

Status UnknownNode(const std::string& id) {
  return Status(StatusCode::kNotFound,
                "there is no node " + id.substr(0, kNodeIdBytesMax) + " (engramctl nodes)");
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
  const bool joins = found == nodes_.end();
  if (joins && nodes_.size() >= kNodesMax) {
    effects->status = Status(StatusCode::kResourceExhausted,
                             std::to_string(nodes_.size()) +
                                 " memory nodes are known already: "
                                 "forget those that are gone (engramctl remove-node)");
    return;
  }
  Node& node = nodes_[id];
  const proto::NodeDescription before = std::exchange(node.description, event.description);
  const bool restarted = !joins && before.incarnation() != event.description.incarnation();
  const bool told_anew = !node.up || restarted ||
                         before.data_address() != event.description.data_address() ||
                         before.zone() != event.description.zone();
  const bool plan_anew = joins || node.lost || before.zone() != event.description.zone() ||
                         before.capacity_bytes() != event.description.capacity_bytes();
  node.up = true;
  node.lost = false;
  node.heard_of = now;
  PersistNode(node, effects);
  if (restarted) {
    // A new incarnation holds nothing; its slots stay its own and are loaded again.
    ForgetHoldings(id);
    NoteFigures(node, {});
    effects->notes.push_back("node " + id + " started again: it loads its slots");
  } else if (joins) {
    effects->notes.push_back("node " + id + " joined with " +
                             std::to_string(event.description.capacity_bytes()) + " bytes");
  }
  if (told_anew) PublishMapsOf(id, effects);
  if (plan_anew) Replan(effects);
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
      message.known_versions_size() > static_cast<int>(kVersionsMax) ||
      message.held_size() > static_cast<int>(kVersionsMax)) {
    effects->status = Status(StatusCode::kMalformed, "the heartbeat's lists do not fit together");
    return;
  }
  node.heard_of = now;
  NoteFigures(node, message);
  const bool was_lost = std::exchange(node.lost, false);
  if (!node.up) {
    node.up = true;  // it was cut off or paused: it keeps what it holds
    effects->notes.push_back("node " + message.id() + " is heard of again");
    PublishMapsOf(message.id(), effects);
    effects->wake = true;
  }
  for (const proto::HeldVersion& held : message.held()) TakeHeld(node, held, effects);
  if (was_lost) Replan(effects);
}

void ClusterState::NoteFigures(Node& node, const proto::HeartbeatRequest& message) {
  node.corrupt_rows_found = message.corrupt_rows_found();
  node.rows_repaired = message.rows_repaired();
  node.copy_bytes_per_s = message.copy_bytes_per_s();
  node.releasing_bytes = message.releasing_bytes();
}

void ClusterState::On(const NodeDrained& event, MonotonicTime /*now*/, ClusterEffects* effects) {
  const auto found = nodes_.find(event.node_id);
  if (found == nodes_.end()) {
    effects->status = UnknownNode(event.node_id);
    return;
  }
  Node& node = found->second;
  if (node.draining == !event.undo) return;
  node.draining = !event.undo;
  PersistNode(node, effects);
  effects->notes.push_back("node " + event.node_id +
                           (event.undo ? " is drained no longer" : " is drained"));
  Replan(effects);
}

void ClusterState::On(const NodeRemoved& event, MonotonicTime /*now*/, ClusterEffects* effects) {
  const auto found = nodes_.find(event.node_id);
  if (found == nodes_.end()) {
    effects->status = UnknownNode(event.node_id);
    return;
  }
  if (found->second.up) {
    effects->status = Status(StatusCode::kFailedPrecondition,
                             "node " + event.node_id + " is up: drain and stop it first");
    return;
  }
  if (OwnsAny(event.node_id)) {
    effects->status = Status(StatusCode::kFailedPrecondition,
                             "node " + event.node_id +
                                 " still owns slots: drain it (engramctl "
                                 "drain), or wait until its slots were copied elsewhere");
    return;
  }
  nodes_.erase(found);
  ForgetNode(event.node_id, effects);
  effects->notes.push_back("node " + event.node_id + " is forgotten");
  Replan(effects);
}

void ClusterState::On(const TimePassed& /*event*/, MonotonicTime now, ClusterEffects* effects) {
  bool any_lost = false;
  for (auto& [id, node] : nodes_) {
    const Duration silent = now - node.heard_of;
    if (node.up && silent >= options_.down_after) {
      node.up = false;
      effects->notes.push_back("node " + id + " was not heard of for " +
                               std::to_string(options_.down_after.count()) + " ms: it is down");
      PublishMapsOf(id, effects);
      effects->wake = true;
    }
    if (!node.up && !node.lost && silent >= options_.lost_after) {
      node.lost = true;
      any_lost = true;
      effects->notes.push_back("node " + id + " was not heard of for " +
                               std::to_string(options_.lost_after.count()) +
                               " ms: its slots are placed anew");
    }
  }
  if (any_lost) Replan(effects);
}

void ClusterState::ForgetHoldings(const std::string& node_id) {
  for (auto& [number, version] : versions_) {
    const NodeIndex index = IndexOf(version, node_id);
    if (index == kNoNode) continue;
    ForgetReady(version, index);
    Holding& holding = version.holdings[index.value()];
    holding.error = Status();
    holding.bytes_loaded = 0;
    holding.damaged.clear();  // with its memory
    holding.reported.clear();
    NewRevision(holding);
  }
}

void ClusterState::ForgetReady(Version& version, NodeIndex node) {
  const Holding& holding = version.holdings[node.value()];
  for (size_t place = 0; holding.ready_slots > 0 && place < version.ready.size(); ++place) {
    if (version.map->owners[place] == node) MarkNotReady(version, place);
  }
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

std::map<std::string, uint64_t> ClusterState::UsedBytes(TableVersion except) const {
  std::map<std::string, uint64_t> used;
  for (const auto& [number, version] : versions_) {
    if (number == except) continue;
    std::vector<uint64_t> bytes(version.node_ids.size(), 0);
    const uint32_t replicas = version.map->replica_count;
    for (uint32_t slot = 0; slot < version.layout->slot_count(); ++slot) {
      const uint64_t slot_bytes = version.layout->slot_bytes(SlotIndex(slot));
      const std::span<const NodeIndex> owners = version.map->Replicas(SlotIndex(slot));
      const auto target = std::span(version.target).subspan(size_t{slot} * replicas, replicas);
      for (const NodeIndex owner : owners) {
        if (owner != kNoNode) bytes[owner.value()] += slot_bytes;
      }
      for (const NodeIndex owner : target) {
        const bool counted = std::find(owners.begin(), owners.end(), owner) != owners.end();
        if (owner != kNoNode && !counted) bytes[owner.value()] += slot_bytes;
      }
    }
    for (size_t i = 0; i < bytes.size(); ++i) used[version.node_ids[i]] += bytes[i];
  }
  return used;
}

bool ClusterState::OwnsAny(const std::string& node_id) const {
  return std::any_of(versions_.begin(), versions_.end(), [&](const auto& entry) {
    const NodeIndex index = IndexOf(entry.second, node_id);
    const auto& owners = entry.second.map->owners;
    return index != kNoNode && std::find(owners.begin(), owners.end(), index) != owners.end();
  });
}

}  // namespace engram
