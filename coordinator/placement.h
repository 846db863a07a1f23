// Which nodes get each slot, and what a change of nodes moves. Pure and deterministic.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"

namespace engram {

struct PlacementNode {
  std::string id;
  std::string zone;             // empty = a zone of its own
  uint64_t capacity_bytes = 0;  // of the node; 0 counts as not accepting
  uint64_t used_bytes = 0;      // assigned already, by other versions
  // False: draining or lost. It gets nothing, and what it has moves away.
  bool accepts = true;
};

// The owners [slots][replica_count], as in ShardMap, that a version should have: the first layout
// where `current` is empty, else the change of `current` that moves the fewest bytes.
//   nodes    NodeIndex is the place in this list, in `current` and in the result
//   current  [slots][replica_count] or empty; kNoNode = missing
//
// Every node that accepts ends within 1.02 of its share (TargetBytes), or within one slot a column
// where a slot is more than that. Only replicas that must move do: those that are missing, those on
// nodes that do not accept, those that share a zone needlessly, and those that bring a node that is
// a whole slot or more off its share back to it. A node that is nearer stays as it is, so planning
// from the result moves nothing. A replica that stays keeps its place in the order to ask in; in a
// slot that had none, each replica is first for its part of the slots.
//
// Replicas of a slot are on different nodes always. They are in different zones too, if as many
// zones accept and the shares that this needs fit the nodes' memory; otherwise as far as the shares
// allow it. Per column, nodes of equal share hold equally many slots, to within one, as far as
// choosing among the replicas that move anyway can do that.
//
// Where fewer nodes accept than there are replicas, each gets a whole copy. The other replicas stay
// where `current` has them, or become kNoNode, after those that there are.
//
// ERRORS: kInvalidArgument (replica_count outside 1..kReplicasMax; `current` of another size or
// naming no node), kFailedPrecondition (a first layout with fewer nodes than replicas),
// kResourceExhausted with the bytes wanted and free of the node that lacks most.
[[nodiscard]] Result<std::vector<NodeIndex>> PlanOwners(const TableLayout& layout,
                                                        uint32_t replica_count,
                                                        const std::vector<PlacementNode>& nodes,
                                                        std::span<const NodeIndex> current);

// The bytes [nodes] that each should hold: its share by capacity of all replicas, of which no node
// and no zone gets more than one copy of the table (no zone: where PlanOwners keeps zones apart).
// Precondition: 1 <= replica_count <= kReplicasMax.
[[nodiscard]] std::vector<uint64_t> TargetBytes(const TableLayout& layout, uint32_t replica_count,
                                                const std::vector<PlacementNode>& nodes);

// The fewest bytes that any plan from `current` could move to bring every node to its share: the
// sum over nodes of what they lack. What must move for the zones alone comes on top.
// Preconditions: those of PlanOwners.
[[nodiscard]] uint64_t MinimumBytes(const TableLayout& layout, uint32_t replica_count,
                                    const std::vector<PlacementNode>& nodes,
                                    std::span<const NodeIndex> current);

// One replica of a slot that is to be copied to another node, or only given up.
struct SlotMove {
  SlotIndex slot;
  NodeIndex gains;  // kNoNode: the slot has one replica fewer
  NodeIndex loses;  // kNoNode: the slot has one replica more

  friend bool operator==(const SlotMove&, const SlotMove&) = default;
};

// By slot. Either table may be empty: nobody owns anything. A changed order alone is no move.
// Precondition: the tables have the same size, or one is empty.
[[nodiscard]] std::vector<SlotMove> MovesBetween(uint32_t replica_count,
                                                 std::span<const NodeIndex> from,
                                                 std::span<const NodeIndex> to);
// Bytes to copy.
[[nodiscard]] uint64_t MovedBytes(const TableLayout& layout, std::span<const SlotMove> moves);

}  // namespace engram
