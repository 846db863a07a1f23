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

proto::HeartbeatReply ClusterState::Changes(const proto::HeartbeatRequest& request) const {
  proto::HeartbeatReply reply;
  reply.set_term(term_);
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
    if (index == kNoNode || known_revision(number) == version.assignment_revision) continue;
    proto::SlotAssignment* assignment = reply.add_changed();
    assignment->set_version(number.value());
    assignment->set_revision(version.assignment_revision);
    assignment->set_newest_epoch(version.map->epoch.value());
    *assignment->mutable_spec() = TableSpecToProto(version.spec);
    assignment->set_model_identity(ModelIdentityToBytes(version.identity));
    assignment->set_checkpoint_path(version.checkpoint_path);
    const uint32_t replicas = version.map->replica_count;
    for (size_t i = 0; i < version.map->owners.size(); ++i) {
      if (version.map->owners[i] != index) continue;
      const auto slot = static_cast<uint32_t>(i / replicas);
      assignment->add_slots(slot);
      assignment->add_digests(version.digests[slot]);
    }
  }
  return reply;
}

proto::GetStatusReply ClusterState::ClusterStatus(MonotonicTime now) const {
  proto::GetStatusReply reply;
  reply.set_term(term_);
  for (const auto& [id, node] : nodes_) {
    proto::NodeStatus* status = reply.add_nodes();
    status->set_id(id);
    status->set_zone(node.description.zone());
    status->set_address(node.description.data_address());
    status->set_http_address(node.description.http_address());
    status->set_incarnation(node.description.incarnation());
    status->set_up(node.up);
    status->set_capacity_bytes(node.description.capacity_bytes());
    status->set_assigned_bytes(AssignedBytes(id));
    status->set_corrupt_rows_found(node.corrupt_rows_found);
    // A new leader counts from a moment that is still to come.
    const Duration age = std::max(Duration(0), now - node.heard_of);
    status->set_last_heartbeat_age_ms(
        static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(age).count()));
    for (const auto& [number, version] : versions_) {
      const NodeIndex index = IndexOf(version, id);
      if (index == kNoNode) continue;
      const auto& owners = version.map->owners;
      status->set_assigned_slots(
          status->assigned_slots() +
          static_cast<uint32_t>(std::count(owners.begin(), owners.end(), index)));
      const Holding& holding = version.holdings[index.value()];
      status->set_ready_slots(status->ready_slots() + static_cast<uint32_t>(holding.ready_slots));
      if (!holding.error.ok()) status->set_error(holding.error.ToString());
    }
  }
  for (const auto& [number, version] : versions_) {
    proto::VersionStatus* status = reply.add_versions();
    status->set_version(number.value());
    status->set_current(number == current_);
    status->set_checkpoint_path(version.checkpoint_path);
    status->set_model_identity_hex(ModelIdentityHex(version.identity));
    status->set_epoch(version.map->epoch.value());
    status->set_replica_count(version.map->replica_count);
    status->set_slot_count(version.layout->slot_count());
    status->set_ready_slots(version.slots_ready);
    status->set_total_bytes(version.layout->total_bytes() * version.map->replica_count);
    uint64_t loaded = 0;
    for (const Holding& holding : version.holdings) loaded += holding.bytes_loaded;
    status->set_bytes_loaded(loaded);
    *status->mutable_spec() = TableSpecToProto(version.spec);
    status->set_damaged_slot_reports(version.damaged_slot_reports);
  }
  return reply;
}

}  // namespace engram
