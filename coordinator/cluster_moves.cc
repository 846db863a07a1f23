// What nodes hold, what the plan wants them to, and the way from one to the other:
//
//   the plan (`target`) names another owner for a place
//     -> the new owner is told to copy the slot (`incoming`), from a replica or the checkpoint
//     -> it has it, verified: it becomes the owner in a map of a new epoch
//     -> the old owner is told that the slot is no longer its own; it serves it until no reader may
//        still ask there, and then reuses the memory (docs/formats/session.md)
//
// Nothing of it is lost with the process: owners and target are durable, the rest nodes tell again.
#include <algorithm>
#include <set>
#include <utility>

#include "coordinator/cluster_state.h"
#include "engram/table/table_proto.h"

namespace engram {
namespace {

constexpr uint32_t kFromCheckpoint = 0xffffffffu;

// At most `bytes_max` of `text`, cut between characters: half of one would make the status reply
// unreadable.
std::string CutBetweenCharacters(const std::string& text, size_t bytes_max) {
  if (text.size() <= bytes_max) return text;
  size_t end = bytes_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end);
}

Status HeldError(const proto::HeldVersion& held) {
  if (held.error() == proto::OK) return Status();
  const int code = std::min<int>(held.error(), static_cast<int>(StatusCode::kInternal));
  return Status(static_cast<StatusCode>(code), CutBetweenCharacters(held.error_message(), 1000));
}

}  // namespace

// ---- what nodes tell

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
  Status error = HeldError(held);
  if (error != holding.error && !error.ok()) {
    effects->notes.push_back("node " + node.description.id() + ", version " +
                             std::to_string(number.value()) + ": " + error.ToString());
  }
  ForgetReady(version, index);
  holding.error = std::move(error);
  holding.bytes_loaded = held.bytes_loaded();
  if (held.assignment_revision() == holding.revision) holding.damaged.clear();  // it was told
  TakeReadySlots(number, version, index, held, effects);
  TakeDamaged(number, version, index, held, effects);
  effects->wake = true;
  BecomeReadyIfComplete(number, effects);
}

// A node tells a slot until one assignment has named it, and never again: so this makes one
// revision for each damage that is found, or fewer.
void ClusterState::TakeDamaged(TableVersion number, Version& version, NodeIndex node,
                               const proto::HeldVersion& held, ClusterEffects* effects) {
  Holding& holding = version.holdings[node.value()];
  size_t found = 0;
  uint32_t first = 0;
  for (const uint32_t slot : held.damaged_slots()) {
    if (slot >= version.layout->slot_count()) continue;
    const std::span<const NodeIndex> owners = version.map->Replicas(SlotIndex(slot));
    if (std::find(owners.begin(), owners.end(), node) == owners.end()) continue;  // it is leaving
    if (!holding.damaged.insert(slot).second) continue;
    if (found++ == 0) first = slot;
  }
  if (found == 0) return;
  effects->notes.push_back("node " + version.node_ids[node.value()] + " found damaged rows in " +
                           std::to_string(found) + " of its slots of version " +
                           std::to_string(number.value()) + ", the first " + std::to_string(first) +
                           ": it replaces them");
  NewRevision(holding);
}

void ClusterState::TakeReadySlots(TableVersion number, Version& version, NodeIndex node,
                                  const proto::HeldVersion& held, ClusterEffects* effects) {
  const uint32_t replicas = version.map->replica_count;
  std::set<uint32_t> changed_chunks;  // each is persisted once, whatever the order of the slots
  std::vector<NodeIndex> owners;      // a copy, once one changes
  for (int i = 0; i < held.ready_slots_size(); ++i) {
    const uint32_t slot = held.ready_slots(i);
    if (slot >= version.layout->slot_count()) continue;
    const size_t first = size_t{slot} * replicas;
    const auto& now = owners.empty() ? version.map->owners : owners;
    size_t place = first;
    while (place < first + replicas && now[place] != node) ++place;
    const bool owns = place < first + replicas;
    if (!owns && !version.holdings[node.value()].incoming.contains(slot)) continue;
    if (!TakeDigest(version, node, slot, held.ready_digests(i), &changed_chunks, effects)) continue;
    if (owns) {
      MarkReady(version, place);
      continue;
    }
    if (owners.empty()) owners = version.map->owners;
    (void)TakeOver(version, &owners, node, slot);
  }
  for (const uint32_t chunk : changed_chunks) PersistDigests(number, version, chunk, effects);
  if (owners.empty() || owners == version.map->owners) return;
  // Ready flags go by place: those of new owners are set once the map names them.
  for (size_t place = 0; place < owners.size(); ++place) {
    if (owners[place] != version.map->owners[place]) MarkNotReady(version, place);
  }
  ShardMap map = *version.map;
  const std::vector<NodeIndex> before = std::exchange(map.owners, std::move(owners));
  version.map = std::make_shared<const ShardMap>(std::move(map));
  for (size_t place = 0; place < before.size(); ++place) {
    const NodeIndex owner = version.map->owners[place];
    if (owner == before[place]) continue;
    if (owner == node) MarkReady(version, place);
    if (before[place] != kNoNode) NewRevision(version.holdings[before[place].value()]);
  }
  PersistOwners(number, version, effects);
  PublishMap(number, effects);
  ScheduleMoves(version);
}

bool ClusterState::TakeDigest(Version& version, NodeIndex node, uint32_t slot, uint64_t digest,
                              std::set<uint32_t>* changed_chunks, ClusterEffects* effects) {
  uint64_t& recorded = version.digests[slot];
  if (recorded == digest) return true;
  if (recorded == 0) {
    recorded = digest;
    changed_chunks->insert(slot / kDigestsPerRecord);
    return true;
  }
  Holding& holding = version.holdings[node.value()];
  holding.error = Status(StatusCode::kCorrupt,
                         "slot " + std::to_string(slot) +
                             " was loaded with other contents than before: is the checkpoint under "
                             "the same path the same on every node?");
  effects->notes.push_back("node " + version.node_ids[node.value()] + ": " +
                           holding.error.ToString());
  return false;
}

void ClusterState::MarkReady(Version& version, size_t place) {
  if (version.ready[place] != 0) return;
  version.ready[place] = 1;
  ++version.holdings[version.map->owners[place].value()].ready_slots;
  if (version.ready_replicas[place / version.map->replica_count]++ == 0) ++version.slots_ready;
}

void ClusterState::MarkNotReady(Version& version, size_t place) {
  if (version.ready[place] == 0) return;
  version.ready[place] = 0;
  --version.holdings[version.map->owners[place].value()].ready_slots;
  if (--version.ready_replicas[place / version.map->replica_count] == 0) --version.slots_ready;
}

bool ClusterState::TakeOver(Version& version, std::vector<NodeIndex>* owners, NodeIndex node,
                            uint32_t slot) {
  const uint32_t replicas = version.map->replica_count;
  NodeIndex* const now = owners->data() + size_t{slot} * replicas;
  const NodeIndex* const target = version.target.data() + size_t{slot} * replicas;
  const auto wanted = std::find(target, target + replicas, node);
  if (wanted == target + replicas) return false;
  // Its own place, if who is there leaves; else any place that somebody leaves or nobody has.
  const auto leaves = [&](NodeIndex owner) {
    return owner == kNoNode || std::find(target, target + replicas, owner) == target + replicas;
  };
  NodeIndex* place = now + (wanted - target);
  if (!leaves(*place)) place = std::find_if(now, now + replicas, leaves);
  if (place == now + replicas) return false;
  *place = node;
  // Missing replicas come last in a map.
  std::stable_partition(now, now + replicas, [](NodeIndex owner) { return owner != kNoNode; });
  version.holdings[node.value()].incoming.erase(slot);
  version.move_bytes_done += version.layout->slot_bytes(SlotIndex(slot));
  return true;
}

// ---- the plan

std::vector<PlacementNode> ClusterState::PlacementNodes(TableVersion number,
                                                        const Version& version) const {
  std::vector<PlacementNode> nodes;
  const std::map<std::string, uint64_t> used = UsedBytes(number);
  const auto add = [&](const std::string& id) {
    PlacementNode node;
    node.id = id;
    const auto found = nodes_.find(id);
    if (found != nodes_.end()) {
      node.zone = found->second.description.zone();
      node.capacity_bytes = found->second.description.capacity_bytes();
      const auto elsewhere = used.find(id);
      node.used_bytes = elsewhere == used.end() ? 0 : elsewhere->second;
    }
    node.accepts = found != nodes_.end() && !found->second.draining && !found->second.lost;
    nodes.push_back(std::move(node));
  };
  for (const std::string& id : version.node_ids) add(id);
  for (const auto& [id, node] : nodes_) {
    if (!node.draining && node.up && IndexOf(version, id) == kNoNode) add(id);
  }
  return nodes;
}

void ClusterState::Replan(ClusterEffects* effects) {
  for (auto& [number, version] : versions_) {
    if (version.wanted_replicas < version.map->replica_count) {
      RaiseReplicas(number, version, effects);
    }
    ReplanVersion(number, version, effects);
  }
}

void ClusterState::ReplanVersion(TableVersion number, Version& version, ClusterEffects* effects) {
  const std::vector<PlacementNode> nodes = PlacementNodes(number, version);
  auto target = PlanWith(version.wanted_replicas, version, nodes);
  const std::string problem = target.has_value() ? "" : target.error().message();
  if (problem != version.plan_problem && !problem.empty()) {
    effects->notes.push_back("version " + std::to_string(number.value()) +
                             " stays where it is: " + problem);
  }
  version.plan_problem = problem;
  if (!target.has_value()) return;
  if (nodes.size() > version.node_ids.size()) {
    for (size_t i = version.node_ids.size(); i < nodes.size(); ++i) {
      version.node_ids.push_back(nodes[i].id);
    }
    version.holdings.resize(nodes.size());
    PublishMap(number, effects);
  }
  if (*target != version.target) {
    version.target = *std::move(target);
    PersistTarget(number, version, effects);
    const auto moves =
        MovesBetween(version.map->replica_count, version.map->owners, version.target);
    if (!moves.empty()) {
      effects->notes.push_back("version " + std::to_string(number.value()) + ": " +
                               std::to_string(moves.size()) + " replicas to move, " +
                               std::to_string(MovedBytes(*version.layout, moves)) + " bytes");
    }
  }
  ScheduleMoves(version);
  effects->wake = true;
}

// ---- who copies what now

ClusterState::Rank ClusterState::RankOf(const Version& version, uint32_t slot) const {
  const std::span<const NodeIndex> owners = version.map->Replicas(SlotIndex(slot));
  bool any_readable = false;
  uint32_t there = 0;
  for (size_t i = 0; i < owners.size(); ++i) {
    if (owners[i] == kNoNode || IsLost(version, owners[i])) continue;
    ++there;
    any_readable |= version.ready[size_t{slot} * owners.size() + i] != 0;
  }
  if (!any_readable) return Rank::kNoReplica;
  return there >= version.wanted_replicas ? Rank::kBalance : Rank::kRepair;
}

bool ClusterState::IsUp(const Version& version, NodeIndex node) const {
  const auto found = nodes_.find(version.node_ids[node.value()]);
  return found != nodes_.end() && found->second.up;
}

bool ClusterState::IsLost(const Version& version, NodeIndex node) const {
  const auto found = nodes_.find(version.node_ids[node.value()]);
  return found == nodes_.end() || found->second.lost;
}

void ClusterState::ScheduleMoves(Version& version) {
  std::vector<std::vector<uint32_t>> wanted(version.node_ids.size());
  for (const SlotMove& move :
       MovesBetween(version.map->replica_count, version.map->owners, version.target)) {
    if (move.gains != kNoNode) wanted[move.gains.value()].push_back(move.slot.value());
  }
  for (uint32_t i = 0; i < wanted.size(); ++i) ScheduleNode(version, NodeIndex(i), wanted[i]);
}

// What is on its way and still wanted goes on. Repairs do not wait for balance: they have as much
// room again.
void ClusterState::ScheduleNode(Version& version, NodeIndex node,
                                const std::vector<uint32_t>& wanted) {
  Holding& holding = version.holdings[node.value()];
  std::set<uint32_t> next;
  uint32_t balance = 0;
  uint32_t repairs = 0;
  const auto take = [&](uint32_t slot) {
    uint32_t& count = RankOf(version, slot) == Rank::kBalance ? balance : repairs;
    if (count >= options_.incoming_slots_max) return;
    count += next.insert(slot).second ? 1 : 0;
  };
  for (const uint32_t slot : wanted) {
    if (holding.incoming.contains(slot)) take(slot);
  }
  for (const Rank rank : {Rank::kNoReplica, Rank::kRepair, Rank::kBalance}) {
    for (const uint32_t slot : wanted) {
      if (RankOf(version, slot) == rank) take(slot);
    }
  }
  if (next == holding.incoming) return;
  holding.incoming = std::move(next);
  NewRevision(holding);
}

// A node that knows a revision of an earlier term must not take it for one of this term: the term
// is its upper part.
void ClusterState::NewRevision(Holding& holding) {
  constexpr uint32_t kRevisionBits = 24;
  holding.revision = (term_ << kRevisionBits) + ++revisions_given_;
}

// ---- what nodes are told

proto::HeartbeatReply ClusterState::Changes(const proto::HeartbeatRequest& request) const {
  proto::HeartbeatReply reply;
  reply.set_term(term_);
  reply.set_copy_bytes_per_s_max(options_.copy_bytes_per_s_max);
  const auto known_revision = [&](TableVersion number) -> uint64_t {
    for (int i = 0; i < request.known_versions_size(); ++i) {
      if (request.known_versions(i) == number.value()) return request.known_assignment_revisions(i);
    }
    return 0;
  };
  for (const uint64_t known : request.known_versions()) {
    if (!versions_.contains(TableVersion(known))) reply.add_dropped_versions(known);
  }
  for (const auto& [number, version] : versions_) {
    const NodeIndex index = IndexOf(version, request.id());
    if (index == kNoNode || version.holdings[index.value()].revision == 0) continue;
    reply.add_versions(number.value());
    reply.add_newest_epochs(version.map->epoch.value());
    if (known_revision(number) == version.holdings[index.value()].revision) continue;
    *reply.add_changed() = Assignment(number, version, index);
  }
  return reply;
}

proto::SlotAssignment ClusterState::Assignment(TableVersion number, const Version& version,
                                               NodeIndex node) const {
  const Holding& holding = version.holdings[node.value()];
  proto::SlotAssignment assignment;
  assignment.set_version(number.value());
  assignment.set_revision(holding.revision);
  assignment.set_newest_epoch(version.map->epoch.value());
  *assignment.mutable_spec() = TableSpecToProto(version.spec);
  assignment.set_model_identity(ModelIdentityToBytes(version.identity));
  assignment.set_checkpoint_path(version.checkpoint_path);
  std::vector<uint32_t> source_numbers(version.node_ids.size(), kFromCheckpoint);
  const auto source_of = [&](NodeIndex source) {
    uint32_t& place = source_numbers[source.value()];
    if (place == kFromCheckpoint) {
      const proto::NodeDescription& described =
          nodes_.at(version.node_ids[source.value()]).description;
      place = static_cast<uint32_t>(assignment.sources_size());
      proto::SourceNode* message = assignment.add_sources();
      message->set_id(described.id());
      message->set_data_address(described.data_address());
      message->set_incarnation(described.incarnation());
    }
    return place;
  };
  const uint32_t replicas = version.map->replica_count;
  for (uint32_t slot = 0; slot < version.layout->slot_count(); ++slot) {
    const std::span<const NodeIndex> owners = version.map->Replicas(SlotIndex(slot));
    const bool owned = std::find(owners.begin(), owners.end(), node) != owners.end();
    if (!owned && !holding.incoming.contains(slot)) continue;
    assignment.add_slots(slot);
    assignment.add_digests(version.digests[slot]);
    // A replica that is ready; the turn goes round, so that one source does not feed everybody.
    uint32_t source = kFromCheckpoint;
    for (uint32_t i = 0; i < replicas && source == kFromCheckpoint; ++i) {
      const uint32_t turn = (slot + node.value() + i) % replicas;
      const NodeIndex owner = owners[turn];
      const bool ready = version.ready[size_t{slot} * replicas + turn] != 0;
      if (owner != node && ready && IsUp(version, owner)) source = source_of(owner);
    }
    assignment.add_slot_sources(source);
    const bool damaged = holding.damaged.contains(slot);
    if (damaged) assignment.add_damaged_slots(slot);
    // Rows that only this node has and that are damaged cannot be had anywhere.
    const Rank repair = source == kFromCheckpoint ? Rank::kNoReplica : Rank::kRepair;
    assignment.add_slot_ranks(static_cast<uint32_t>(damaged ? repair : RankOf(version, slot)));
  }
  return assignment;
}

}  // namespace engram
