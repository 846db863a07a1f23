// ClusterState to and from the records of the metadata store (proto/state.proto).
#include <algorithm>
#include <charconv>
#include <limits>
#include <string>

#include "coordinator/cluster_state.h"
#include "engram/table/table_proto.h"
#include "proto/state.pb.h"

namespace engram {
namespace {

constexpr char kClusterKey[] = "cluster";
constexpr char kNodePrefix[] = "node/";
constexpr char kVersionPrefix[] = "version/";

constexpr char kOwnersPart[] = "/owners";
constexpr char kTargetPart[] = "/target";
constexpr char kDigestsPart[] = "/digests/";

std::string VersionKey(TableVersion number) {
  return kVersionPrefix + std::to_string(number.value());
}

Status Damaged(const MetadataRecord& record, const std::string& what) {
  return Status(StatusCode::kCorrupt, "the metadata record '" + record.key + "' " + what +
                                          ": restore the state from a copy");
}

std::string OwnersToRecord(const std::vector<NodeIndex>& owners) {
  proto::OwnersRecord record;
  for (const NodeIndex owner : owners) record.add_owners(owner.value());
  return record.SerializeAsString();
}

bool ParseNumber(std::string_view text, uint64_t* number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), *number);
  return error == std::errc() && end == text.data() + text.size();
}

}  // namespace

void ClusterState::PersistCluster(ClusterEffects* effects) const {
  proto::ClusterRecord record;
  record.set_next_version(next_version_);
  record.set_current_version(current_.value());
  record.set_previous_version(previous_.value());
  effects->records.push_back({kClusterKey, record.SerializeAsString()});
}

void ClusterState::PersistNode(const Node& node, ClusterEffects* effects) {
  proto::NodeRecord record;
  *record.mutable_description() = node.description;
  record.set_draining(node.draining);
  effects->records.push_back({kNodePrefix + node.description.id(), record.SerializeAsString()});
}

void ClusterState::PersistVersion(TableVersion number, const Version& version,
                                  ClusterEffects* effects) {
  proto::VersionRecord record;
  record.set_version(number.value());
  record.set_epoch(version.map->epoch.value());
  *record.mutable_spec() = TableSpecToProto(version.spec);
  record.set_model_identity(ModelIdentityToBytes(version.identity));
  record.set_checkpoint_path(version.checkpoint_path);
  record.set_replica_count(version.map->replica_count);
  record.set_wanted_replicas(version.wanted_replicas);
  record.set_make_current(version.make_current);
  record.set_was_ready(version.was_ready);
  for (const std::string& id : version.node_ids) record.add_node_ids(id);
  for (const ShardMapNode& node : version.map->nodes) {
    record.add_node_incarnations(node.incarnation.value());
  }
  effects->records.push_back({VersionKey(number), record.SerializeAsString()});
}

void ClusterState::PersistOwners(TableVersion number, const Version& version,
                                 ClusterEffects* effects) {
  effects->records.push_back(
      {VersionKey(number) + kOwnersPart, OwnersToRecord(version.map->owners)});
}

void ClusterState::PersistTarget(TableVersion number, const Version& version,
                                 ClusterEffects* effects) {
  effects->records.push_back({VersionKey(number) + kTargetPart, OwnersToRecord(version.target)});
}

void ClusterState::PersistDigests(TableVersion number, const Version& version, uint32_t chunk,
                                  ClusterEffects* effects) {
  proto::DigestsRecord record;
  const size_t begin = size_t{chunk} * kDigestsPerRecord;
  const size_t end = std::min(begin + kDigestsPerRecord, version.digests.size());
  for (size_t slot = begin; slot < end; ++slot) record.add_digests(version.digests[slot]);
  effects->records.push_back(
      {VersionKey(number) + kDigestsPart + std::to_string(chunk), record.SerializeAsString()});
}

void ClusterState::ForgetNode(const std::string& node_id, ClusterEffects* effects) {
  effects->records.push_back({kNodePrefix + node_id, std::nullopt});
}

void ClusterState::ForgetVersion(TableVersion number, const Version& version,
                                 ClusterEffects* effects) {
  const std::string key = VersionKey(number);
  for (const std::string& part :
       {std::string(), std::string(kOwnersPart), std::string(kTargetPart)}) {
    effects->records.push_back({key + part, std::nullopt});
  }
  for (size_t first = 0; first < version.digests.size(); first += kDigestsPerRecord) {
    effects->records.push_back(
        {key + kDigestsPart + std::to_string(first / kDigestsPerRecord), std::nullopt});
  }
}

Status ClusterState::RestoreAll(const std::vector<MetadataRecord>& records, MonotonicTime now) {
  // Keys are in order, so that a version's own record comes before its parts.
  for (const MetadataRecord& record : records) {
    ENGRAM_RETURN_IF_ERROR(RestoreRecord(record, now));
  }
  // A number that was given once must not be given again.
  const TableVersion newest = versions_.empty() ? TableVersion() : versions_.rbegin()->first;
  const auto there = [&](TableVersion version) {
    return version == TableVersion() || versions_.contains(version);
  };
  if (next_version_ <= newest.value() || !there(current_) || !there(previous_)) {
    return Status(StatusCode::kCorrupt,
                  "the metadata record 'cluster' is missing or does not fit the versions that are "
                  "there: restore the state from a copy");
  }
  return Status();
}

Result<ClusterEffects> ClusterState::Restore(const std::vector<MetadataRecord>& records,
                                             MonotonicTime now) {
  ENGRAM_TRY(RestoreAll(records, now));
  ClusterEffects effects;
  for (auto& [number, version] : versions_) {
    ENGRAM_TRY(FinishRestore(number, version));
    PublishMap(number, &effects);
    for (Holding& holding : version.holdings) NewRevision(holding);
    ScheduleMoves(version);
  }
  return effects;
}

Status ClusterState::RestoreToRead(const std::vector<MetadataRecord>& records, MonotonicTime now) {
  ENGRAM_RETURN_IF_ERROR(RestoreAll(records, now));
  for (const MetadataRecord& record : records) {
    proto::VersionRecord version;
    const bool is_version = record.key.starts_with(kVersionPrefix) &&
                            record.key.find('/', sizeof(kVersionPrefix) - 1) == std::string::npos;
    if (!is_version || !version.ParseFromString(record.value.value_or(""))) continue;
    for (int i = 0; i < std::min(version.node_ids_size(), version.node_incarnations_size()); ++i) {
      const auto node = nodes_.find(version.node_ids(i));
      if (node != nodes_.end()) node->second.up = version.node_incarnations(i) != 0;
    }
  }
  for (auto& [number, version] : versions_) {
    ENGRAM_RETURN_IF_ERROR(FinishRestore(number, version));
  }
  return Status();
}

Status ClusterState::RestoreRecord(const MetadataRecord& record, MonotonicTime now) {
  const std::string& value = record.value.has_value() ? *record.value : std::string();
  if (record.key == kClusterKey) {
    proto::ClusterRecord cluster;
    if (!cluster.ParseFromString(value)) return Damaged(record, "cannot be read");
    next_version_ = cluster.next_version();
    current_ = TableVersion(cluster.current_version());
    previous_ = TableVersion(cluster.previous_version());
    return Status();
  }
  if (record.key.starts_with(kNodePrefix)) {
    proto::NodeRecord node;
    if (!node.ParseFromString(value)) return Damaged(record, "cannot be read");
    if (node.description().id() != record.key.substr(sizeof(kNodePrefix) - 1)) {
      return Damaged(record, "describes another node");
    }
    Node& restored = nodes_[node.description().id()];
    restored.description = node.description();
    restored.draining = node.draining();
    restored.up = true;
    restored.heard_of = now;
    return Status();
  }
  if (record.key.starts_with(kVersionPrefix)) {
    const std::string rest = record.key.substr(sizeof(kVersionPrefix) - 1);
    const size_t slash = rest.find('/');
    uint64_t number = 0;
    if (!ParseNumber(std::string_view(rest).substr(0, slash), &number) || number == 0) {
      return Damaged(record, "names no version");
    }
    if (slash == std::string::npos) return RestoreVersion(record, TableVersion(number));
    return RestoreVersionPart(record, TableVersion(number), rest.substr(slash + 1));
  }
  return Damaged(record, "is not one of this program's");
}

Status ClusterState::RestoreVersion(const MetadataRecord& record, TableVersion number) {
  proto::VersionRecord message;
  if (!message.ParseFromString(record.value.value_or(""))) {
    return Damaged(record, "cannot be read");
  }
  const auto spec = TableSpecFromProto(message.spec());
  if (!spec.has_value()) return Damaged(record, "has a bad spec (" + spec.error().message() + ")");
  const auto identity = ModelIdentityFromBytes(message.model_identity());
  auto layout = TableLayout::Create(*spec);
  if (!identity.has_value() || !layout.has_value() || message.replica_count() < 1 ||
      message.replica_count() > kReplicasMax ||
      message.wanted_replicas() > message.replica_count() || message.version() != number.value() ||
      message.epoch() == std::numeric_limits<uint64_t>::max()) {
    return Damaged(record, "does not fit together");
  }
  Version& version = versions_[number];
  version.spec = *spec;
  version.identity = *identity;
  version.checkpoint_path = message.checkpoint_path();
  version.layout = std::make_shared<const TableLayout>(*std::move(layout));
  version.wanted_replicas =
      message.wanted_replicas() == 0 ? message.replica_count() : message.wanted_replicas();
  version.make_current = message.make_current();
  version.was_ready = message.was_ready();
  version.node_ids.assign(message.node_ids().begin(), message.node_ids().end());
  ShapeVersion(version, message.replica_count());
  ShardMap map;
  map.version = number;
  map.epoch = Epoch(message.epoch());
  map.replica_count = message.replica_count();
  version.map = std::make_shared<const ShardMap>(std::move(map));
  return Status();
}

Status ClusterState::RestoreVersionPart(const MetadataRecord& record, TableVersion number,
                                        const std::string& part) {
  const auto found = versions_.find(number);
  if (found == versions_.end()) return Damaged(record, "belongs to no version");
  Version& version = found->second;
  const std::string slash_part = "/" + part;
  if (slash_part == kOwnersPart || slash_part == kTargetPart) {
    proto::OwnersRecord message;
    if (!message.ParseFromString(record.value.value_or(""))) {
      return Damaged(record, "cannot be read");
    }
    std::vector<NodeIndex> owners;
    for (const uint32_t owner : message.owners()) owners.push_back(NodeIndex(owner));
    if (slash_part == kTargetPart) {
      version.target = std::move(owners);
      return Status();
    }
    ShardMap map = *version.map;
    map.owners = std::move(owners);
    version.map = std::make_shared<const ShardMap>(std::move(map));
    return Status();
  }
  uint64_t chunk = 0;
  proto::DigestsRecord message;
  if (!part.starts_with("digests/") || !ParseNumber(part.substr(8), &chunk) ||
      !message.ParseFromString(record.value.value_or(""))) {
    return Damaged(record, "cannot be read");
  }
  const size_t slots = version.digests.size();
  const size_t begin = chunk <= slots / kDigestsPerRecord ? chunk * kDigestsPerRecord : slots;
  if (static_cast<size_t>(message.digests_size()) > slots - begin) {
    return Damaged(record, "has more digests than there are slots");
  }
  std::copy(message.digests().begin(), message.digests().end(),
            version.digests.begin() + static_cast<std::ptrdiff_t>(begin));
  return Status();
}

Status ClusterState::FinishRestore(TableVersion number, Version& version) {
  ShardMap map = *version.map;
  map.nodes = MapNodes(version);
  if (version.target.empty()) version.target = map.owners;  // never planned since it was made
  const std::vector<NodeIndex> owners_told = map.owners;
  for (const auto& owners : {version.target, owners_told}) {
    map.owners = owners;
    if (const Status valid = map.Validate(version.layout->slot_count()); !valid.ok()) {
      return Status(
          StatusCode::kCorrupt,
          "the metadata of version " + std::to_string(number.value()) + ": " + valid.message());
    }
  }
  version.map = std::make_shared<const ShardMap>(std::move(map));
  return Status();
}

}  // namespace engram
