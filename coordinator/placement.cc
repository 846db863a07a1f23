#include "coordinator/placement.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "engram/base/check.h"
#include "engram/table/shard_map.h"

namespace engram {
namespace {

// SplitMix64's finaliser: every input bit moves every output bit.
uint64_t Mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return Mix(hash);
}

struct Node {
  uint64_t name_hash = 0;
  uint32_t zone = 0;
  double share = 0;         // of all replicas' bytes; at most 1 / replica_count
  double target_bytes = 0;  // share of the columns placed so far
  double placed_bytes = 0;
  uint32_t quota = 0;  // slots of the current column still to get
};

class Planner {
 public:
  Planner(const TableLayout& layout, uint32_t replica_count,
          const std::vector<PlacementNode>& nodes)
      : layout_(layout), replica_count_(replica_count), nodes_(nodes.size()) {
    std::map<std::string, uint32_t> zones;
    for (size_t i = 0; i < nodes.size(); ++i) {
      nodes_[i].name_hash = HashName(nodes[i].id);
      const std::string zone = nodes[i].zone.empty() ? "node " + nodes[i].id : nodes[i].zone;
      nodes_[i].zone = zones.emplace(zone, static_cast<uint32_t>(zones.size())).first->second;
    }
    zone_quota_.resize(zones.size());
    zone_used_.resize(zones.size());
    SetShares(nodes);
    owners_.assign(size_t{layout.slot_count()} * replica_count, kNoNode);
  }

  std::vector<NodeIndex> Plan() {
    for (int32_t layer = 0; layer < layout_.layer_count(); ++layer) {
      for (int32_t column = 0; column < layout_.column_count(); ++column) {
        PlaceColumn(layout_.column(layer, column));
      }
    }
    return std::move(owners_);
  }

  [[nodiscard]] double share(size_t node) const { return nodes_[node].share; }

 private:
  // Shares by capacity; what is above one copy of the table goes to the others, by capacity again.
  void SetShares(const std::vector<PlacementNode>& nodes) {
    const double share_max = 1.0 / replica_count_;
    std::vector<bool> full(nodes.size(), false);
    for (size_t round = 0; round < nodes.size(); ++round) {
      double left = 1.0;
      double capacity = 0;
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (full[i]) {
          left -= share_max;
        } else {
          capacity += static_cast<double>(nodes[i].capacity_bytes);
        }
      }
      bool changed = false;
      for (size_t i = 0; i < nodes.size(); ++i) {
        if (full[i]) continue;
        nodes_[i].share = left * static_cast<double>(nodes[i].capacity_bytes) / capacity;
        if (nodes_[i].share > share_max) {
          nodes_[i].share = share_max;
          full[i] = true;
          changed = true;
        }
      }
      if (!changed) return;
    }
  }

  void SetQuotas(const TableLayout::Column& column) {
    const uint64_t wanted = uint64_t{column.slot_count} * replica_count_;
    const double bytes = static_cast<double>(column.row_count) * layout_.row_stride() *
                         static_cast<double>(replica_count_);
    uint64_t given = 0;
    for (Node& node : nodes_) {
      node.target_bytes += node.share * bytes;
      node.quota = std::min(column.slot_count,
                            static_cast<uint32_t>(node.share * static_cast<double>(wanted)));
      given += node.quota;
    }
    // The rest, one each, to those furthest behind once they have their quota.
    const double slot_bytes = static_cast<double>(layout_.slot_rows()) * layout_.row_stride();
    std::vector<size_t> order(nodes_.size());
    std::iota(order.begin(), order.end(), size_t{0});
    const uint64_t salt = Mix(column.first_slot + 1);
    std::vector<double> behind(nodes_.size());
    for (size_t i = 0; i < nodes_.size(); ++i) {
      behind[i] = nodes_[i].target_bytes - nodes_[i].placed_bytes - nodes_[i].quota * slot_bytes;
    }
    std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
      if (behind[a] != behind[b]) return behind[a] > behind[b];
      return Mix(nodes_[a].name_hash ^ salt) > Mix(nodes_[b].name_hash ^ salt);
    });
    std::fill(zone_quota_.begin(), zone_quota_.end(), 0u);
    for (const Node& node : nodes_) zone_quota_[node.zone] += node.quota;
    // A zone with more quota than the column has slots would hold two replicas of some: only when
    // nobody else is left.
    bool zones_bound = replica_count_ > 1;
    while (given < wanted) {
      const uint64_t before = given;
      for (const size_t i : order) {
        if (given == wanted) break;
        Node& node = nodes_[i];
        if (node.quota == column.slot_count) continue;
        if (zones_bound && zone_quota_[node.zone] >= column.slot_count) continue;
        ++node.quota;
        ++zone_quota_[node.zone];
        ++given;
      }
      ENGRAM_CHECK(given > before || zones_bound);  // there are replica_count nodes: there is room
      if (given == before) zones_bound = false;
    }
  }

  void PlaceColumn(const TableLayout::Column& column) {
    SetQuotas(column);
    for (uint32_t i = 0; i < column.slot_count; ++i) {
      PlaceSlot(SlotIndex(column.first_slot + i), column.slot_count - i);
    }
  }

  // The largest remaining quota first keeps every later slot placeable: no node and, where shares
  // allow it, no zone is left with more quota than there are slots.
  void PlaceSlot(SlotIndex slot, uint32_t slots_left) {
    NodeIndex* owners = owners_.data() + size_t{slot.value()} * replica_count_;
    const uint64_t salt = Mix(uint64_t{slot.value()} + 0x9e3779b97f4a7c15ull);
    for (uint32_t replica = 0; replica < replica_count_; ++replica) {
      const uint32_t best = Choose(owners, replica, slots_left, salt);
      Node& node = nodes_[best];
      owners[replica] = NodeIndex(best);
      --node.quota;
      --zone_quota_[node.zone];
      ++zone_used_[node.zone];
      node.placed_bytes += static_cast<double>(layout_.slot_bytes(slot));
    }
    for (uint32_t replica = 0; replica < replica_count_; ++replica) {
      zone_used_[nodes_[owners[replica].value()].zone] = 0;
    }
    // The order to ask in: each replica is first for its part of the slots.
    const size_t turn = static_cast<size_t>(salt % replica_count_);
    std::rotate(owners, owners + turn, owners + replica_count_);
  }

  [[nodiscard]] uint32_t Choose(const NodeIndex* owners, uint32_t chosen, uint32_t slots_left,
                                uint64_t salt) const {
    struct Rank {
      bool must;  // has as much quota as there are slots left
      bool zone_free;
      uint32_t zone_quota;
      uint32_t quota;
      uint64_t hash;
      auto operator<=>(const Rank&) const = default;
    };
    uint32_t best = 0xffffffffu;
    Rank best_rank{};
    for (uint32_t i = 0; i < nodes_.size(); ++i) {
      const Node& node = nodes_[i];
      if (node.quota == 0) continue;
      if (std::find(owners, owners + chosen, NodeIndex(i)) != owners + chosen) continue;
      const bool one_of_many = replica_count_ > 1;
      const Rank rank{node.quota >= slots_left, !one_of_many || zone_used_[node.zone] == 0,
                      one_of_many ? zone_quota_[node.zone] : 0, node.quota,
                      Mix(node.name_hash ^ salt)};
      if (best == 0xffffffffu || rank > best_rank) {
        best = i;
        best_rank = rank;
      }
    }
    ENGRAM_CHECK(best != 0xffffffffu);
    return best;
  }

  const TableLayout& layout_;
  const uint32_t replica_count_;
  std::vector<Node> nodes_;
  std::vector<uint32_t> zone_quota_;  // [zones] of the current column
  std::vector<uint32_t> zone_used_;   // [zones] replicas of the current slot
  std::vector<NodeIndex> owners_;
};

}  // namespace

Result<std::vector<NodeIndex>> PlaceSlots(const TableLayout& layout, uint32_t replica_count,
                                          const std::vector<PlacementNode>& nodes) {
  if (replica_count < 1 || replica_count > kReplicasMax) {
    return Error(StatusCode::kInvalidArgument, "a replica count of " +
                                                   std::to_string(replica_count) + "; 1 to " +
                                                   std::to_string(kReplicasMax) + " are allowed");
  }
  uint32_t usable = 0;
  for (const PlacementNode& node : nodes) usable += node.capacity_bytes > 0 ? 1 : 0;
  if (usable < replica_count) {
    return Error(StatusCode::kFailedPrecondition,
                 std::to_string(replica_count) + " replicas need as many memory nodes; " +
                     std::to_string(usable) + " with capacity are up: start more nodes");
  }
  Planner planner(layout, replica_count, nodes);
  std::vector<NodeIndex> owners = planner.Plan();

  std::vector<uint64_t> bytes(nodes.size(), 0);
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) {
    for (uint32_t replica = 0; replica < replica_count; ++replica) {
      bytes[owners[size_t{slot} * replica_count + replica].value()] +=
          layout.slot_bytes(SlotIndex(slot));
    }
  }
  uint64_t lacking_most = 0;
  std::string problem;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const uint64_t free =
        nodes[i].capacity_bytes - std::min(nodes[i].capacity_bytes, nodes[i].used_bytes);
    if (bytes[i] > free && bytes[i] - free > lacking_most) {
      lacking_most = bytes[i] - free;
      problem = "node " + nodes[i].id + " would get " + std::to_string(bytes[i]) +
                " bytes and has " + std::to_string(free) + " free of " +
                std::to_string(nodes[i].capacity_bytes) +
                " (all replicas together: " + std::to_string(layout.total_bytes() * replica_count) +
                " bytes): give nodes more --memory, or add nodes";
    }
  }
  if (lacking_most > 0) return Error(StatusCode::kResourceExhausted, problem);
  return owners;
}

}  // namespace engram
