// ClusterState's answers to questions.

#include <algorithm>

#include "coordinator/cluster_state.h"
#include "engram/table/table_proto.h"

namespace engram {

TableVersion ClusterState::DefaultVersion() const {
  if (current_.value() != 0) return current_;
  TableVersion newest;
  for (const auto& [number, version] : versions_) {
    if (version.make_current) newest = number;
  }
  return newest;
}

std::shared_ptr<const ShardMap> ClusterState::Map(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? nullptr : found->second.map;
}

const TableSpec* ClusterState::Spec(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? nullptr : &found->second.spec;
}

const ModelIdentity* ClusterState::Identity(TableVersion version) const {
  const auto found = versions_.find(version);
  return found == versions_.end() ? nullptr : &found->second.identity;
}

bool ClusterState::Ready(TableVersion version) const {
  const auto found = versions_.find(version);
  return found != versions_.end() &&
         found->second.slots_ready == found->second.layout->slot_count();
}

bool ClusterState::WasReady(TableVersion version) const {
  const auto found = versions_.find(version);
  return found != versions_.end() && found->second.was_ready;
}

proto::GetStatusReply ClusterState::ClusterStatus(MonotonicTime now) const {
  proto::GetStatusReply reply;
  reply.set_term(term_);
  for (const auto& [id, node] : nodes_) *reply.add_nodes() = StatusOf(id, node, now);
  for (const auto& [number, version] : versions_) {
    *reply.add_versions() = StatusOf(number, version);
  }
  return reply;
}

proto::NodeStatus ClusterState::StatusOf(const std::string& id, const Node& node,
                                         MonotonicTime now) const {
  proto::NodeStatus status;
  status.set_id(id);
  status.set_zone(node.description.zone());
  status.set_address(node.description.data_address());
  status.set_http_address(node.description.http_address());
  status.set_incarnation(node.description.incarnation());
  status.set_up(node.up);
  status.set_draining(node.draining);
  status.set_lost(node.lost);
  status.set_capacity_bytes(node.description.capacity_bytes());
  status.set_corrupt_rows_found(node.corrupt_rows_found);
  status.set_rows_repaired(node.rows_repaired);
  status.set_copy_bytes_per_s(node.copy_bytes_per_s);
  status.set_releasing_bytes(node.releasing_bytes);
  // A new leader counts from a moment that is still to come.
  const Duration age = std::max(Duration(0), now - node.heard_of);
  status.set_last_heartbeat_age_ms(
      static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(age).count()));
  for (const auto& [number, version] : versions_) {
    const NodeIndex index = IndexOf(version, id);
    if (index == kNoNode) continue;
    const auto& owners = version.map->owners;
    const uint32_t replicas = version.map->replica_count;
    for (size_t place = 0; place < owners.size(); ++place) {
      if (owners[place] != index) continue;
      status.set_assigned_slots(status.assigned_slots() + 1);
      status.set_assigned_bytes(
          status.assigned_bytes() +
          version.layout->slot_bytes(SlotIndex(static_cast<uint32_t>(place / replicas))));
    }
    for (const SlotMove& move : MovesBetween(replicas, owners, version.target)) {
      if (move.gains == index) {
        status.set_incoming_slots(status.incoming_slots() + 1);
        status.set_incoming_bytes(status.incoming_bytes() + version.layout->slot_bytes(move.slot));
      }
      if (move.loses == index) status.set_outgoing_slots(status.outgoing_slots() + 1);
    }
    const Holding& holding = version.holdings[index.value()];
    status.set_ready_slots(status.ready_slots() + static_cast<uint32_t>(holding.ready_slots));
    if (!holding.error.ok()) status.set_error(holding.error.ToString());
  }
  return status;
}

proto::VersionStatus ClusterState::StatusOf(TableVersion number, const Version& version) const {
  proto::VersionStatus status;
  const uint32_t replicas = version.map->replica_count;
  status.set_version(number.value());
  status.set_current(number == current_);
  status.set_previous(number == previous_);
  status.set_checkpoint_path(version.checkpoint_path);
  status.set_model_identity_hex(ModelIdentityHex(version.identity));
  status.set_epoch(version.map->epoch.value());
  status.set_replica_count(replicas);
  status.set_slot_count(version.layout->slot_count());
  status.set_ready_slots(version.slots_ready);
  status.set_total_bytes(version.layout->total_bytes() * version.wanted_replicas);
  uint64_t loaded = 0;
  for (const Holding& holding : version.holdings) loaded += holding.bytes_loaded;
  status.set_bytes_loaded(loaded);
  *status.mutable_spec() = TableSpecToProto(version.spec);
  status.set_damaged_slot_reports(version.damaged_slot_reports);
  const auto moves = MovesBetween(replicas, version.map->owners, version.target);
  status.set_moves_pending(static_cast<uint32_t>(moves.size()));
  status.set_move_bytes_pending(MovedBytes(*version.layout, moves));
  status.set_move_bytes_done(version.move_bytes_done);
  status.set_replicas_missing(ReplicasMissing(version));
  status.set_replicas_wanted(version.wanted_replicas);
  status.set_plan_problem(version.plan_problem);
  return status;
}

Result<proto::GetPlanReply> ClusterState::Preview(const proto::GetPlanRequest& request) const {
  ClusterState planned = *this;  // a value: what is planned there happens nowhere
  const auto find = [&](const std::string& id) -> Result<Node*> {
    const auto found = planned.nodes_.find(id);
    if (found == planned.nodes_.end()) {
      return Error(StatusCode::kNotFound,
                   "there is no node " + id.substr(0, kNodeIdBytesMax) + " (engramctl nodes)");
    }
    return &found->second;
  };
  for (const std::string& id : request.drain()) {
    ENGRAM_ASSIGN_OR_RETURN(Node * node, find(id));
    node->draining = true;
  }
  for (const std::string& id : request.undrain()) {
    ENGRAM_ASSIGN_OR_RETURN(Node * node, find(id));
    node->draining = false;
  }
  for (const std::string& id : request.lose()) {
    ENGRAM_ASSIGN_OR_RETURN(Node * node, find(id));
    node->up = false;
    node->lost = true;
  }
  for (const proto::PlannedNode& added : request.add()) {
    Node& node = planned.nodes_[added.id()];
    node.description.set_id(added.id());
    node.description.set_zone(added.zone());
    node.description.set_capacity_bytes(added.capacity_bytes());
    node.up = true;
  }
  proto::GetPlanReply reply;
  for (const auto& [number, version] : planned.versions_) {
    *reply.add_versions() = planned.PlanOf(number, version);
  }
  return reply;
}

proto::GetPlanReply::Version ClusterState::PlanOf(TableVersion number,
                                                  const Version& version) const {
  proto::GetPlanReply::Version plan;
  plan.set_version(number.value());
  const uint32_t replicas = version.map->replica_count;
  const std::vector<PlacementNode> nodes = PlacementNodes(number, version);
  const std::vector<NodeIndex>& owners = version.map->owners;
  const auto target = PlanWith(version.wanted_replicas, version, nodes);
  for (const PlacementNode& node : nodes) plan.add_nodes()->set_id(node.id);
  for (size_t place = 0; place < owners.size(); ++place) {
    if (owners[place] == kNoNode) continue;
    auto* node = plan.mutable_nodes(static_cast<int>(owners[place].value()));
    const uint64_t bytes =
        version.layout->slot_bytes(SlotIndex(static_cast<uint32_t>(place / replicas)));
    node->set_bytes_before(node->bytes_before() + bytes);
    node->set_bytes_after(node->bytes_after() + bytes);
  }
  if (!target.has_value()) {
    plan.set_problem(target.error().message());
    return plan;
  }
  const auto moves = MovesBetween(replicas, owners, *target);
  for (const SlotMove& move : moves) {
    const uint64_t bytes = version.layout->slot_bytes(move.slot);
    if (move.gains != kNoNode) {
      auto* node = plan.mutable_nodes(static_cast<int>(move.gains.value()));
      node->set_slots_gained(node->slots_gained() + 1);
      node->set_bytes_after(node->bytes_after() + bytes);
    }
    if (move.loses != kNoNode) {
      auto* node = plan.mutable_nodes(static_cast<int>(move.loses.value()));
      node->set_slots_lost(node->slots_lost() + 1);
      node->set_bytes_after(node->bytes_after() - bytes);
    }
    const bool repair = move.loses == kNoNode || move.loses.value() >= version.node_ids.size() ||
                        IsLost(version, move.loses);
    if (repair) plan.set_repairs(plan.repairs() + 1);
  }
  plan.set_moves(static_cast<uint32_t>(moves.size()));
  plan.set_move_bytes(MovedBytes(*version.layout, moves));
  plan.set_minimum_bytes(MinimumBytesOf(version, nodes));
  return plan;
}

}  // namespace engram
