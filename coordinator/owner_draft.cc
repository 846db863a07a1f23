#include "coordinator/owner_draft.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "engram/base/check.h"

namespace engram {
namespace {

uint64_t HashName(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return MixBits(hash);
}

bool Accepts(const PlacementNode& node) { return node.accepts && node.capacity_bytes > 0; }

// Shares by capacity, in copies of the table. No group gets more than one copy; what is above it
// goes to the other groups, by capacity again. A group's nodes part its share by capacity.
std::vector<double> CopiesByCapacity(uint32_t replica_count,
                                     const std::vector<PlacementNode>& nodes,
                                     const std::vector<uint32_t>& group_of, uint32_t group_count) {
  std::vector<double> capacity(group_count, 0);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (Accepts(nodes[i])) capacity[group_of[i]] += static_cast<double>(nodes[i].capacity_bytes);
  }
  std::vector<double> share(group_count, 0);
  std::vector<bool> full(group_count, false);
  double left = replica_count;
  for (bool changed = true; changed;) {
    changed = false;
    double capacity_left = 0;
    for (uint32_t g = 0; g < group_count; ++g) capacity_left += full[g] ? 0 : capacity[g];
    const double copies = left;
    for (uint32_t g = 0; g < group_count && capacity_left > 0; ++g) {
      if (full[g]) continue;
      share[g] = copies * capacity[g] / capacity_left;
      if (share[g] < 1 - 1e-9) continue;
      share[g] = 1;
      full[g] = true;
      left -= 1;
      changed = true;
    }
  }
  std::vector<double> result(nodes.size(), 0);
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!Accepts(nodes[i])) continue;
    const uint32_t g = group_of[i];
    result[i] = share[g] * (static_cast<double>(nodes[i].capacity_bytes) / capacity[g]);
  }
  return result;
}

}  // namespace

uint64_t MixBits(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

PlacementShares ShareOut(const TableLayout& layout, uint32_t replica_count,
                         const std::vector<PlacementNode>& nodes) {
  PlacementShares shares;
  std::map<std::string, uint32_t> numbers;
  std::vector<bool> zone_accepts;
  std::vector<uint32_t> every_node(nodes.size());
  for (uint32_t i = 0; i < nodes.size(); ++i) {
    every_node[i] = i;
    const std::string zone = nodes[i].zone.empty() ? "node " + nodes[i].id : "z " + nodes[i].zone;
    const auto number = static_cast<uint32_t>(numbers.size());
    shares.zones.push_back(numbers.emplace(zone, number).first->second);
    zone_accepts.resize(numbers.size());
    if (!Accepts(nodes[i])) continue;
    zone_accepts[shares.zones[i]] = true;
    ++shares.accepting;
  }
  shares.zone_count = static_cast<uint32_t>(numbers.size());
  if (std::count(zone_accepts.begin(), zone_accepts.end(), true) >= replica_count) {
    shares.copies = CopiesByCapacity(replica_count, nodes, shares.zones, shares.zone_count);
    shares.zones_part = true;
    // To keep zones apart may ask more of a small zone than its memory holds.
    for (size_t i = 0; i < nodes.size(); ++i) {
      const double bytes = shares.copies[i] * static_cast<double>(layout.total_bytes());
      if (bytes > static_cast<double>(FreeBytes(nodes[i]))) shares.zones_part = false;
    }
    if (shares.zones_part) return shares;
  }
  shares.copies =
      CopiesByCapacity(replica_count, nodes, every_node, static_cast<uint32_t>(nodes.size()));
  return shares;
}

OwnerDraft::OwnerDraft(const TableLayout& layout, uint32_t replica_count,
                       const std::vector<PlacementNode>& nodes, const PlacementShares& shares,
                       std::span<const NodeIndex> current)
    : layout_(layout),
      replica_count_(replica_count),
      zones_part_(shares.zones_part),
      zone_count_(shares.zone_count),
      current_(current),
      full_slot_bytes_(int64_t{layout.slot_rows()} * layout.row_stride()),
      nodes_(nodes.size()),
      column_of_(layout.slot_count()),
      owners_(size_t{layout.slot_count()} * replica_count, kNoNode) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    Node& node = nodes_[i];
    node.name_hash = HashName(nodes[i].id);
    node.zone = shares.zones[i];
    node.accepts = Accepts(nodes[i]);
    node.copies = shares.copies[i];
    node.target_bytes = std::llround(node.copies * static_cast<double>(layout.total_bytes()));
    node.held_bytes_max = static_cast<int64_t>(std::min<uint64_t>(FreeBytes(nodes[i]), INT64_MAX));
  }
  for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
    for (int32_t c = 0; c < layout.column_count(); ++c) {
      const TableLayout::Column& column = layout.column(layer, c);
      for (uint32_t i = 0; i < column.slot_count; ++i) {
        column_of_[column.first_slot + i] = static_cast<uint32_t>(columns_.size());
      }
      columns_.push_back(column);
    }
  }
  held_.resize(nodes.size() * columns_.size());
  slot_counts_.resize(held_.size());
  new_slots_.resize(nodes.size());
  for (size_t i = 0; i < current.size(); ++i) {
    const auto slot = static_cast<uint32_t>(i / replica_count);
    const uint32_t n = current[i].value();
    if (current[i] == kNoNode || !nodes_[n].accepts || Holds(slot, n)) continue;
    Place(slot, static_cast<uint32_t>(i % replica_count), n);
  }
}

bool OwnerDraft::Holds(uint32_t slot, uint32_t n) const {
  const NodeIndex* const first = owners_.data() + size_t{slot} * replica_count_;
  return std::find(first, first + replica_count_, NodeIndex(n)) != first + replica_count_;
}

bool OwnerDraft::ZoneIsFree(uint32_t slot, uint32_t replica, uint32_t n) const {
  for (uint32_t r = 0; r < replica_count_; ++r) {
    if (r == replica || owner(slot, r) == kNoNode) continue;
    if (nodes_[owner(slot, r).value()].zone == nodes_[n].zone) return false;
  }
  return true;
}

uint32_t OwnerDraft::ReplicaOn(uint32_t slot, uint32_t n) const {
  for (uint32_t r = 0; r < replica_count_; ++r) {
    if (owner(slot, r) == NodeIndex(n)) return r;
  }
  ENGRAM_CHECK(false);
  return 0;
}

bool OwnerDraft::IsNewOn(uint32_t slot, uint32_t n) const {
  if (current_.empty()) return true;
  const auto before = current_.subspan(size_t{slot} * replica_count_, replica_count_);
  return std::find(before.begin(), before.end(), NodeIndex(n)) == before.end();
}

void OwnerDraft::Place(uint32_t slot, uint32_t replica, uint32_t n) {
  owners_[size_t{slot} * replica_count_ + replica] = NodeIndex(n);
  held_[size_t{n} * columns_.size() + column_of_[slot]].push_back(slot);
  ++slot_counts_[size_t{column_of_[slot]} * nodes_.size() + n];
  nodes_[n].held_bytes += slot_bytes(slot);
  if (IsNewOn(slot, n)) ++new_slots_[n];
}

void OwnerDraft::Move(uint32_t slot, uint32_t from, uint32_t to) {
  const uint32_t replica = ReplicaOn(slot, from);
  std::vector<uint32_t>& slots = held_[size_t{from} * columns_.size() + column_of_[slot]];
  const auto found = std::find(slots.begin(), slots.end(), slot);
  ENGRAM_CHECK(found != slots.end());
  *found = slots.back();
  slots.pop_back();
  --slot_counts_[size_t{column_of_[slot]} * nodes_.size() + from];
  nodes_[from].held_bytes -= slot_bytes(slot);
  if (IsNewOn(slot, from)) --new_slots_[from];
  Place(slot, replica, to);
}

std::vector<NodeIndex> OwnerDraft::Finish() {
  for (uint32_t slot = 0; slot < layout_.slot_count(); ++slot) {
    NodeIndex* const first = owners_.data() + size_t{slot} * replica_count_;
    bool kept = false;  // a replica that was there before
    for (uint32_t r = 0; r < replica_count_ && !current_.empty(); ++r) {
      const NodeIndex before = current_[size_t{slot} * replica_count_ + r];
      if (before == kNoNode) continue;
      NodeIndex* const stays = std::find(first, first + replica_count_, before);
      if (stays != first + replica_count_) {
        std::swap(*stays, first[r]);  // it may have left and come back to another place
        kept = true;
      } else if (first[r] == kNoNode) {
        first[r] = before;
        kept = true;
      }
    }
    std::stable_partition(first, first + replica_count_,
                          [](NodeIndex owner) { return owner != kNoNode; });
    if (kept || first[replica_count_ - 1] == kNoNode) continue;
    // The order to ask in: each replica is first for its part of the slots.
    const uint64_t turn = MixBits(uint64_t{slot} + 0x9e3779b97f4a7c15ull) % replica_count_;
    std::rotate(first, first + turn, first + replica_count_);
  }
  return std::move(owners_);
}

}  // namespace engram
