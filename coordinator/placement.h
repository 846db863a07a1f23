// Which nodes get each slot. Pure and deterministic.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"

namespace engram {

struct PlacementNode {
  std::string id;
  std::string zone;             // empty = a zone of its own
  uint64_t capacity_bytes = 0;  // of the node
  uint64_t used_bytes = 0;      // assigned already, by other versions
};

// The first layout of a version: owners [slots][replica_count], as in ShardMap.
//
// Every node gets its share by capacity, to within one slot a column: a column's slots go out in
// quotas of floor or ceil of the node's share, whoever is furthest behind in bytes first. So every
// column is spread over every node, and the totals stay within 1.02 of the shares for tables of
// more than about a hundred slots a node. Replicas of a slot are on different nodes always, and in
// different zones where the zones' shares allow it. Among equals the rendezvous hash of (slot,
// node) decides, so that the order of the columns gives no node a run of neighbours.
//
// A node never gets a slot twice: a share above one copy of the table is cut to it.
//
// ERRORS: kInvalidArgument (replica_count outside 1..kReplicasMax), kFailedPrecondition (fewer
// nodes than replicas), kResourceExhausted with the bytes wanted and free of the node that lacks
// most.
[[nodiscard]] Result<std::vector<NodeIndex>> PlaceSlots(const TableLayout& layout,
                                                        uint32_t replica_count,
                                                        const std::vector<PlacementNode>& nodes);

}  // namespace engram
