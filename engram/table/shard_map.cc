#include "engram/table/shard_map.h"

#include <string>
#include <unordered_set>

namespace engram {
namespace {

Status Malformed(TableVersion version, const std::string& what) {
  return Status(StatusCode::kMalformed,
                "shard map of version " + std::to_string(version.value()) + ": " + what);
}

Status ValidateNodes(const ShardMap& map) {
  if (map.nodes.size() > kNodesMax) {
    return Malformed(map.version, std::to_string(map.nodes.size()) + " nodes, at most " +
                                      std::to_string(kNodesMax) + " are allowed");
  }
  std::unordered_set<std::string_view> ids;
  for (size_t i = 0; i < map.nodes.size(); ++i) {
    const ShardMapNode& node = map.nodes[i];
    const std::string which = "node " + std::to_string(i);
    if (node.id.empty() || node.id.size() > kNodeTextBytesMax) {
      return Malformed(map.version, which + " has an id of " + std::to_string(node.id.size()) +
                                        " bytes, expected 1.." + std::to_string(kNodeTextBytesMax));
    }
    if (node.zone.size() > kNodeTextBytesMax || node.address.size() > kNodeTextBytesMax) {
      return Malformed(map.version, which + " has a zone or address of more than " +
                                        std::to_string(kNodeTextBytesMax) + " bytes");
    }
    if (!ids.insert(node.id).second) {
      return Malformed(map.version, "two nodes are called \"" + node.id + "\"");
    }
  }
  return Status();
}

// Replicas first, then kNoNode; every node known, none twice.
Status ValidateOwners(const ShardMap& map, SlotIndex slot) {
  const auto replicas = map.Replicas(slot);
  const std::string which = "slot " + std::to_string(slot.value());
  bool ended = false;
  for (size_t i = 0; i < replicas.size(); ++i) {
    if (replicas[i] == kNoNode) {
      ended = true;
      continue;
    }
    if (ended) return Malformed(map.version, which + " has a replica after a missing one");
    if (replicas[i].value() >= map.nodes.size()) {
      return Malformed(map.version, which + " is owned by node " +
                                        std::to_string(replicas[i].value()) + " of " +
                                        std::to_string(map.nodes.size()));
    }
    for (size_t j = 0; j < i; ++j) {
      if (replicas[j] == replicas[i]) {
        return Malformed(map.version, which + " has node " + std::to_string(replicas[i].value()) +
                                          " as two replicas");
      }
    }
  }
  return Status();
}

}  // namespace

Status ShardMap::Validate(uint32_t slot_count) const {
  if (version.value() == 0) return Malformed(version, "version 0 names no version");
  if (epoch.value() == 0) return Malformed(version, "epoch 0, expected 1 or more");
  if (replica_count < 1 || replica_count > kReplicasMax) {
    return Malformed(version, "replica_count = " + std::to_string(replica_count) +
                                  ", expected 1.." + std::to_string(kReplicasMax));
  }
  if (owners.size() != uint64_t{slot_count} * replica_count) {
    return Malformed(version, std::to_string(owners.size()) + " owners, expected " +
                                  std::to_string(slot_count) + " slots x " +
                                  std::to_string(replica_count) + " replicas");
  }
  ENGRAM_RETURN_IF_ERROR(ValidateNodes(*this));
  for (uint32_t slot = 0; slot < slot_count; ++slot) {
    // The common case first: one known owner.
    if (replica_count == 1 && owners[slot].value() < nodes.size()) continue;
    ENGRAM_RETURN_IF_ERROR(ValidateOwners(*this, SlotIndex(slot)));
  }
  return Status();
}

}  // namespace engram
