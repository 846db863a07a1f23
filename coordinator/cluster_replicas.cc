// How many replicas a version has: as many as it was made with, or fewer while memory is short.
//
// A version that was made where there was no memory for it and the others takes the place of one
// replica of each slot of the current one, if the operator says so. Both then have fewer replicas
// than they should (`wanted_replicas` < replica_count); each gets the others back, as repairs, when
// a plan finds memory for them: once a version is dropped, or a node joins.
#include <algorithm>
#include <utility>

#include "coordinator/cluster_state.h"

namespace engram {
namespace {

// The first `to` columns of `owners` [slots][from], or all of them and missing ones after.
std::vector<NodeIndex> WithColumns(std::span<const NodeIndex> owners, uint32_t from, uint32_t to) {
  const size_t slots = owners.size() / from;
  std::vector<NodeIndex> result(slots * to, kNoNode);
  for (size_t slot = 0; slot < slots; ++slot) {
    std::copy_n(owners.begin() + static_cast<ptrdiff_t>(slot * from), std::min(from, to),
                result.begin() + static_cast<ptrdiff_t>(slot * to));
  }
  return result;
}

}  // namespace

Result<std::vector<NodeIndex>> ClusterState::PlanWith(uint32_t wanted, const Version& version,
                                                      const std::vector<PlacementNode>& nodes) {
  const uint32_t replicas = version.map->replica_count;
  const std::vector<NodeIndex> current = WithColumns(version.map->owners, replicas, wanted);
  ENGRAM_ASSIGN_OR_RETURN(const auto owners, PlanOwners(*version.layout, wanted, nodes, current));
  return WithColumns(owners, wanted, replicas);
}

uint64_t ClusterState::MinimumBytesOf(const Version& version,
                                      const std::vector<PlacementNode>& nodes) {
  return MinimumBytes(
      *version.layout, version.wanted_replicas, nodes,
      WithColumns(version.map->owners, version.map->replica_count, version.wanted_replicas));
}

uint32_t ClusterState::ReplicasMissing(const Version& version) const {
  uint32_t missing = 0;
  for (uint32_t slot = 0; slot < version.layout->slot_count(); ++slot) {
    uint32_t there = 0;
    for (const NodeIndex owner : version.map->Replicas(SlotIndex(slot))) {
      there += owner != kNoNode && !IsLost(version, owner) ? 1 : 0;
    }
    missing += version.wanted_replicas - std::min(there, version.wanted_replicas);
  }
  return missing;
}

void ClusterState::RaiseReplicas(TableVersion number, Version& version, ClusterEffects* effects) {
  const std::vector<PlacementNode> nodes = PlacementNodes(number, version);
  for (uint32_t more = version.map->replica_count; more > version.wanted_replicas; --more) {
    if (!PlanWith(more, version, nodes).has_value()) continue;
    version.wanted_replicas = more;
    PersistVersion(number, version, effects);
    effects->notes.push_back("version " + std::to_string(number.value()) +
                             ": there is memory for " + std::to_string(more) +
                             " replicas of its slots again");
    return;
  }
}

// Which replicas stay: those that can be read; else, of those on the fullest node, one goes.
std::vector<NodeIndex> ClusterState::OwnersToKeep(const Version& version, uint32_t wanted) const {
  const uint32_t replicas = version.map->replica_count;
  std::vector<NodeIndex> owners = version.map->owners;
  std::vector<uint64_t> held(version.node_ids.size(), 0);
  std::vector<uint64_t> capacity(version.node_ids.size(), 1);
  for (size_t i = 0; i < capacity.size(); ++i) {
    const auto node = nodes_.find(version.node_ids[i]);
    if (node != nodes_.end()) capacity[i] += node->second.description.capacity_bytes();
  }
  for (size_t place = 0; place < owners.size(); ++place) {
    if (owners[place] == kNoNode) continue;
    held[owners[place].value()] +=
        version.layout->slot_bytes(SlotIndex(static_cast<uint32_t>(place / replicas)));
  }
  for (uint32_t slot = 0; slot < version.layout->slot_count(); ++slot) {
    const size_t first = size_t{slot} * replicas;
    const auto begin = owners.begin() + static_cast<ptrdiff_t>(first);
    const auto is_there = [](NodeIndex owner) { return owner != kNoNode; };
    const auto readable = [&](NodeIndex owner) {
      const auto now = version.map->Replicas(SlotIndex(slot));
      const auto place = std::find(now.begin(), now.end(), owner) - now.begin();
      return version.ready[first + static_cast<size_t>(place)] != 0 && IsUp(version, owner);
    };
    const auto stays_rather = [&](NodeIndex a, NodeIndex b) {
      if (readable(a) != readable(b)) return readable(a);
      return static_cast<double>(held[a.value()]) / static_cast<double>(capacity[a.value()]) <
             static_cast<double>(held[b.value()]) / static_cast<double>(capacity[b.value()]);
    };
    for (auto end = begin + replicas; std::count_if(begin, end, is_there) > wanted;) {
      const auto there_end = std::find(begin, end, kNoNode);
      const auto goes = std::max_element(begin, there_end, stays_rather);
      held[goes->value()] -= version.layout->slot_bytes(SlotIndex(slot));
      std::rotate(goes, goes + 1, there_end);
      *(there_end - 1) = kNoNode;
    }
  }
  return owners;
}

void ClusterState::GiveUpReplicas(TableVersion number, Version& version, uint32_t wanted,
                                  ClusterEffects* effects) {
  std::vector<NodeIndex> owners = OwnersToKeep(version, wanted);
  const uint32_t replicas = version.map->replica_count;
  const std::shared_ptr<const ShardMap> before = version.map;
  // Ready flags go by place.
  std::vector<size_t> ready;  // places in the new table
  for (size_t place = 0; place < owners.size(); ++place) {
    if (version.ready[place] == 0 || before->owners[place] == owners[place]) continue;
    const size_t first = place - place % replicas;
    for (size_t i = first; i < first + replicas; ++i) {
      if (owners[i] == before->owners[place]) ready.push_back(i);
    }
    MarkNotReady(version, place);
  }
  ShardMap map = *before;
  map.owners = std::move(owners);
  version.map = std::make_shared<const ShardMap>(std::move(map));
  for (const size_t place : ready) MarkReady(version, place);
  for (const SlotMove& move : MovesBetween(replicas, before->owners, version.map->owners)) {
    NewRevision(version.holdings[move.loses.value()]);
  }
  version.wanted_replicas = wanted;
  version.target = version.map->owners;
  PersistOwners(number, version, effects);
  PersistTarget(number, version, effects);
  PublishMap(number, effects);
  ReplanVersion(number, version, effects);
}

bool ClusterState::CanGiveUpReplica(TableVersion number) const {
  const auto found = versions_.find(number);
  return found != versions_.end() && found->second.wanted_replicas > 1 && Ready(number);
}

Result<ClusterState::FirstLayout> ClusterState::PlaceNew(const TableLayout& layout,
                                                         uint32_t replicas, uint32_t fewest,
                                                         const Version& version) const {
  std::vector<PlacementNode> nodes = PlacementNodes(TableVersion(next_version_), version);
  nodes.resize(version.node_ids.size());
  for (uint32_t wanted = replicas;; --wanted) {
    auto owners = PlanOwners(layout, wanted, nodes, {});
    if (owners.has_value()) return FirstLayout{wanted, WithColumns(*owners, wanted, replicas)};
    if (owners.error().code() != StatusCode::kResourceExhausted || wanted == fewest) {
      return Error(std::move(owners).error());
    }
  }
}

}  // namespace engram
