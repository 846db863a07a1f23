#include "coordinator/placement.h"

#include <algorithm>

#include "coordinator/owner_draft.h"
#include "engram/base/check.h"
#include "engram/table/shard_map.h"

namespace engram {
namespace {

// More than one is rarely needed.
constexpr int kEvenRoundsMax = 4;

Status CheckCurrent(const TableLayout& layout, uint32_t replica_count, size_t node_count,
                    std::span<const NodeIndex> current) {
  if (!current.empty() && current.size() != size_t{layout.slot_count()} * replica_count) {
    return Status(StatusCode::kInvalidArgument,
                  std::to_string(current.size()) + " owners are given for " +
                      std::to_string(layout.slot_count()) + " slots of " +
                      std::to_string(replica_count) + " replicas");
  }
  for (const NodeIndex owner : current) {
    if (owner == kNoNode || owner.value() < node_count) continue;
    return Status(
        StatusCode::kInvalidArgument,
        "an owner is node " + std::to_string(owner.value()) + " of " + std::to_string(node_count));
  }
  return Status();
}

// Whether every node's target fits its memory; else the node that lacks most, with the figures.
Status CheckMemory(const TableLayout& layout, uint32_t replica_count,
                   const std::vector<PlacementNode>& nodes) {
  const std::vector<uint64_t> target = TargetBytes(layout, replica_count, nodes);
  uint64_t lacking_most = 0;
  std::string problem;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const uint64_t free = FreeBytes(nodes[i]);
    if (target[i] <= free || target[i] - free <= lacking_most) continue;
    lacking_most = target[i] - free;
    problem = "node " + nodes[i].id + " would get " + std::to_string(target[i]) +
              " bytes and has " + std::to_string(free) + " free of " +
              std::to_string(nodes[i].capacity_bytes) +
              " (all replicas together: " + std::to_string(layout.total_bytes() * replica_count) +
              " bytes): give nodes more --memory, or add nodes";
  }
  if (lacking_most > 0) return Status(StatusCode::kResourceExhausted, problem);
  return Status();
}

// The targets fit, but slots are whole: some replica found no node.
Status NoRoom(const TableLayout& layout, uint32_t replica_count,
              const std::vector<PlacementNode>& nodes) {
  uint64_t free = 0;
  for (const PlacementNode& node : nodes) free += node.accepts ? FreeBytes(node) : 0;
  return Status(StatusCode::kResourceExhausted,
                "all replicas together have " +
                    std::to_string(layout.total_bytes() * replica_count) + " bytes, in slots of " +
                    std::to_string(uint64_t{layout.slot_rows()} * layout.row_stride()) +
                    "; the nodes have " + std::to_string(free) +
                    " free, too little to hold whole slots: give nodes more --memory, or add "
                    "nodes");
}

}  // namespace

Result<std::vector<NodeIndex>> PlanOwners(const TableLayout& layout, uint32_t replica_count,
                                          const std::vector<PlacementNode>& nodes,
                                          std::span<const NodeIndex> current) {
  if (replica_count < 1 || replica_count > kReplicasMax) {
    return Error(StatusCode::kInvalidArgument, "a replica count of " +
                                                   std::to_string(replica_count) + "; 1 to " +
                                                   std::to_string(kReplicasMax) + " are allowed");
  }
  ENGRAM_TRY(CheckCurrent(layout, replica_count, nodes.size(), current));
  const PlacementShares shares = ShareOut(layout, replica_count, nodes);
  if (current.empty() && shares.accepting < replica_count) {
    return Error(StatusCode::kFailedPrecondition,
                 std::to_string(replica_count) + " replicas need as many memory nodes; " +
                     std::to_string(shares.accepting) + " with capacity are up: start more nodes");
  }
  ENGRAM_TRY(CheckMemory(layout, replica_count, nodes));

  OwnerDraft draft(layout, replica_count, nodes, shares, current);
  FillOpenPlaces(draft);
  PartZones(draft);
  BalanceNodes(draft);
  // What is exchanged can free a node to give or take. Balancing comes last: it is what another
  // plan, which has nothing to exchange, would begin with.
  for (int round = 0; round < kEvenRoundsMax && EvenColumns(draft); ++round) BalanceNodes(draft);
  for (uint32_t n = 0; n < draft.node_count(); ++n) {
    if (draft.node(n).OverfullBytes() > 0 && draft.NewSlots(n) > 0) {
      return Error(NoRoom(layout, replica_count, nodes));
    }
  }
  return draft.Finish();
}

std::vector<uint64_t> TargetBytes(const TableLayout& layout, uint32_t replica_count,
                                  const std::vector<PlacementNode>& nodes) {
  const PlacementShares shares = ShareOut(layout, replica_count, nodes);
  const OwnerDraft draft(layout, replica_count, nodes, shares, {});
  std::vector<uint64_t> bytes;
  for (uint32_t n = 0; n < draft.node_count(); ++n) {
    bytes.push_back(static_cast<uint64_t>(draft.node(n).target_bytes));
  }
  return bytes;
}

uint64_t MinimumBytes(const TableLayout& layout, uint32_t replica_count,
                      const std::vector<PlacementNode>& nodes, std::span<const NodeIndex> current) {
  const PlacementShares shares = ShareOut(layout, replica_count, nodes);
  const OwnerDraft draft(layout, replica_count, nodes, shares, current);
  uint64_t bytes = 0;
  for (uint32_t n = 0; n < draft.node_count(); ++n) {
    bytes += static_cast<uint64_t>(std::max<int64_t>(0, -draft.node(n).surplus()));
  }
  return bytes;
}

std::vector<SlotMove> MovesBetween(uint32_t replica_count, std::span<const NodeIndex> from,
                                   std::span<const NodeIndex> to) {
  ENGRAM_CHECK(from.empty() || to.empty() || from.size() == to.size());
  const size_t slot_count = std::max(from.size(), to.size()) / replica_count;
  std::vector<SlotMove> moves;
  for (size_t slot = 0; slot < slot_count; ++slot) {
    // Those of one side that the other lacks.
    const auto only_in = [&](std::span<const NodeIndex> table, std::span<const NodeIndex> other) {
      std::vector<NodeIndex> nodes;
      if (table.empty()) return nodes;
      const auto hidden =
          other.empty() ? other : other.subspan(slot * replica_count, replica_count);
      for (const NodeIndex n : table.subspan(slot * replica_count, replica_count)) {
        if (n == kNoNode || std::find(hidden.begin(), hidden.end(), n) != hidden.end()) continue;
        nodes.push_back(n);
      }
      return nodes;
    };
    const std::vector<NodeIndex> gains = only_in(to, from);
    const std::vector<NodeIndex> loses = only_in(from, to);
    for (size_t i = 0; i < std::max(gains.size(), loses.size()); ++i) {
      moves.push_back({SlotIndex(static_cast<uint32_t>(slot)),
                       i < gains.size() ? gains[i] : kNoNode,
                       i < loses.size() ? loses[i] : kNoNode});
    }
  }
  return moves;
}

uint64_t MovedBytes(const TableLayout& layout, std::span<const SlotMove> moves) {
  uint64_t bytes = 0;
  for (const SlotMove& move : moves) {
    if (move.gains != kNoNode) bytes += layout.slot_bytes(move.slot);
  }
  return bytes;
}

}  // namespace engram
