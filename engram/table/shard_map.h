// Which memory nodes hold each slot of one version, at one epoch.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"

namespace engram {

inline constexpr uint32_t kReplicasMax = 3;
inline constexpr uint32_t kNodesMax = 4096;
inline constexpr uint32_t kNodeTextBytesMax = 255;  // a node's id, zone and address, each
// Fills the places of replicas that a slot lacks; always after the ones it has.
inline constexpr NodeIndex kNoNode{0xffffffffu};

struct ShardMapNode {
  std::string id;  // the operator's name
  std::string zone;
  std::string address;      // "host:port" of the node's data service
  Incarnation incarnation;  // 0: not up now; its slots stay assigned during the grace time

  friend bool operator==(const ShardMapNode&, const ShardMapNode&) = default;
};

// A value. The order of replicas is the order to ask in, where nothing else decides.
struct ShardMap {
  TableVersion version;
  Epoch epoch;
  uint32_t replica_count = 1;       // R, 1..kReplicasMax
  std::vector<ShardMapNode> nodes;  // index = NodeIndex
  std::vector<NodeIndex> owners;    // [slots][R], kNoNode where a replica is missing

  [[nodiscard]] std::span<const NodeIndex> Replicas(SlotIndex slot) const {
    return {owners.data() + size_t{slot.value()} * replica_count, replica_count};
  }
  // ERRORS: kMalformed naming what is out of range.
  [[nodiscard]] Status Validate(uint32_t slot_count) const;
  friend bool operator==(const ShardMap&, const ShardMap&) = default;
};

}  // namespace engram
