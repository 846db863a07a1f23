// An owner table while a plan changes it, with what each node holds and should hold. Internal to
// placement.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "coordinator/placement.h"
#include "engram/base/strong_id.h"
#include "engram/table/shard_map.h"
#include "engram/table/table_layout.h"

namespace engram {

// SplitMix64's finaliser: every input bit moves every output bit.
[[nodiscard]] uint64_t MixBits(uint64_t x);

// What the shares by capacity come to.
struct PlacementShares {
  std::vector<uint32_t> zones;  // [nodes] dense numbers
  uint32_t zone_count = 0;
  std::vector<double> copies;  // [nodes] of the table, 0..1; 0 where the node does not accept
  uint32_t accepting = 0;      // nodes
  // Replicas of a slot can be, and so must be, in different zones.
  bool zones_part = false;
};
[[nodiscard]] PlacementShares ShareOut(const TableLayout& layout, uint32_t replica_count,
                                       const std::vector<PlacementNode>& nodes);
[[nodiscard]] inline uint64_t FreeBytes(const PlacementNode& node) {
  return node.capacity_bytes > node.used_bytes ? node.capacity_bytes - node.used_bytes : 0;
}

// Only nodes that accept hold anything in a draft: replicas elsewhere are open places.
// Thread-compatible.
class OwnerDraft {
 public:
  struct Node {
    uint64_t name_hash = 0;
    uint32_t zone = 0;
    bool accepts = false;
    double copies = 0;         // its share, in copies of the table
    int64_t target_bytes = 0;  // the same in bytes
    int64_t held_bytes = 0;
    int64_t held_bytes_max = 0;  // what its memory allows

    [[nodiscard]] int64_t surplus() const { return held_bytes - target_bytes; }
    [[nodiscard]] int64_t OverfullBytes() const {
      return held_bytes > held_bytes_max ? held_bytes - held_bytes_max : 0;
    }
  };

  // Starts from those of `current` that may stay. OWNERSHIP: `layout` must outlive the draft.
  OwnerDraft(const TableLayout& layout, uint32_t replica_count,
             const std::vector<PlacementNode>& nodes, const PlacementShares& shares,
             std::span<const NodeIndex> current);

  [[nodiscard]] const TableLayout& layout() const { return layout_; }
  [[nodiscard]] uint32_t replica_count() const { return replica_count_; }
  [[nodiscard]] bool first_layout() const { return current_.empty(); }
  [[nodiscard]] bool zones_part() const { return zones_part_; }
  [[nodiscard]] uint32_t node_count() const { return static_cast<uint32_t>(nodes_.size()); }
  [[nodiscard]] uint32_t zone_count() const { return zone_count_; }
  [[nodiscard]] const Node& node(uint32_t n) const { return nodes_[n]; }
  [[nodiscard]] const std::vector<NodeIndex>& owners() const { return owners_; }
  [[nodiscard]] NodeIndex owner(uint32_t slot, uint32_t replica) const {
    return owners_[size_t{slot} * replica_count_ + replica];
  }
  [[nodiscard]] int64_t slot_bytes(uint32_t slot) const {
    return static_cast<int64_t>(layout_.slot_bytes(SlotIndex(slot)));
  }
  // Of every slot but the last of each column, which may be smaller.
  [[nodiscard]] int64_t full_slot_bytes() const { return full_slot_bytes_; }

  // Columns are counted over all layers.
  [[nodiscard]] uint32_t column_count() const { return static_cast<uint32_t>(columns_.size()); }
  [[nodiscard]] const TableLayout::Column& column(uint32_t c) const { return columns_[c]; }
  [[nodiscard]] const std::vector<uint32_t>& SlotsOf(uint32_t n, uint32_t column) const {
    return held_[size_t{n} * columns_.size() + column];
  }
  // Slots of a column that the node's share would add; below 0: it has more than its share.
  [[nodiscard]] double Lacks(uint32_t n, uint32_t column) const {
    return nodes_[n].copies * columns_[column].slot_count -
           slot_counts_[size_t{column} * nodes_.size() + n];
  }

  [[nodiscard]] bool Holds(uint32_t slot, uint32_t n) const;
  // No replica of the slot but the one at place `replica` is in the zone of node `n`.
  [[nodiscard]] bool ZoneIsFree(uint32_t slot, uint32_t replica, uint32_t n) const;
  // To move the slot from one node to another makes no replica share a zone that did not.
  [[nodiscard]] bool KeepsZonesApart(uint32_t slot, uint32_t from, uint32_t to) const {
    const uint32_t replica = ReplicaOn(slot, from);
    return ZoneIsFree(slot, replica, to) || !ZoneIsFree(slot, replica, from);
  }
  [[nodiscard]] bool Fits(uint32_t slot, uint32_t n) const {
    return nodes_[n].held_bytes + slot_bytes(slot) <= nodes_[n].held_bytes_max;
  }
  // The place of node `n` among the slot's replicas. Precondition: Holds(slot, n).
  [[nodiscard]] uint32_t ReplicaOn(uint32_t slot, uint32_t n) const;
  // Node `n` did not hold the slot in `current`: to move it on costs nothing more.
  [[nodiscard]] bool IsNewOn(uint32_t slot, uint32_t n) const;
  // Slots that a node holds and did not hold in `current`.
  [[nodiscard]] uint32_t NewSlots(uint32_t n) const { return new_slots_[n]; }

  // Precondition: the place is open, and the node does not hold the slot.
  void Place(uint32_t slot, uint32_t replica, uint32_t n);
  // Precondition: `from` holds the slot, `to` does not.
  void Move(uint32_t slot, uint32_t from, uint32_t to);

  // Places that are still open get back the owner that `current` names, if any, else kNoNode after
  // the others. The draft is spent.
  [[nodiscard]] std::vector<NodeIndex> Finish();

 private:
  const TableLayout& layout_;
  const uint32_t replica_count_;
  const bool zones_part_;
  const uint32_t zone_count_;
  const std::span<const NodeIndex> current_;
  const int64_t full_slot_bytes_;
  std::vector<Node> nodes_;
  std::vector<TableLayout::Column> columns_;
  std::vector<uint32_t> column_of_;          // [slots]
  std::vector<NodeIndex> owners_;            // [slots][replicas]
  std::vector<std::vector<uint32_t>> held_;  // [nodes][columns] the slots that a node holds
  std::vector<uint32_t> slot_counts_;        // [columns][nodes] their sizes, near each other
  std::vector<uint32_t> new_slots_;          // [nodes]
};

// owner_fill.cc: gives open places to the nodes that are furthest behind, beyond their memory if
// need be. Some stay open where fewer nodes accept than there are replicas.
void FillOpenPlaces(OwnerDraft& draft);

// owner_balance.cc: parts replicas that share a zone needlessly, then moves slots until every node
// is less than a slot off its target, as far as the constraints allow.
void PartZones(OwnerDraft& draft);
void BalanceNodes(OwnerDraft& draft);

// owner_columns.cc: exchanges slots between pairs of nodes where that evens out columns and moves
// no more bytes. False when there was none to exchange.
bool EvenColumns(OwnerDraft& draft);

}  // namespace engram
