// Gives open places to the nodes that are furthest behind, a column at a time.
#include <algorithm>
#include <cmath>
#include <compare>
#include <optional>
#include <queue>
#include <vector>

#include "coordinator/owner_draft.h"

namespace engram {
namespace {

// A share is a sum of fractions: what is this near to a whole slot is one.
constexpr double kSlotEpsilon = 1e-6;

// Who gets the next slot of a column.
struct Rank {
  bool has_room = false;
  // Whole slots of the column that it lacks; 0: a fraction of one; below: it has its share.
  double column_slots = 0;
  double behind_bytes = 0;
  uint64_t hash = 0;

  // NOLINTNEXTLINE(modernize-use-nullptr): its 0 is an ordering
  friend auto operator<=>(const Rank&, const Rank&) = default;
};

struct Ranked {
  Rank rank;
  uint32_t index = 0;  // of a node or a zone

  friend bool operator<(const Ranked& a, const Ranked& b) {
    // NOLINTNEXTLINE(modernize-use-nullptr): its 0 is an ordering
    if (const auto order = a.rank <=> b.rank; order != 0) return order < 0;
    return a.index > b.index;
  }
};
using RankedQueue = std::priority_queue<Ranked>;

double WholeSlots(double lacks) {
  if (lacks + kSlotEpsilon >= 1) return std::floor(lacks + kSlotEpsilon);
  return lacks > kSlotEpsilon ? 0 : std::floor(lacks + kSlotEpsilon) - 1;
}

class OpenPlaceFiller {
 public:
  explicit OpenPlaceFiller(OwnerDraft& draft)
      : draft_(draft), zones_(draft.zone_count()), zone_rest_(draft.zone_count()) {
    for (uint32_t n = 0; n < draft.node_count(); ++n) {
      const OwnerDraft::Node& node = draft.node(n);
      start_bytes_.push_back(static_cast<double>(node.held_bytes));
      lacked_bytes_.push_back(static_cast<double>(std::max<int64_t>(0, -node.surplus())));
      lacked_bytes_sum_ += lacked_bytes_.back();
    }
  }

  void Fill() {
    for (uint32_t c = 0; c < draft_.column_count(); ++c) FillColumn(c);
  }

 private:
  void FillColumn(uint32_t c) {
    const TableLayout::Column& column = draft_.column(c);
    const uint64_t given_before = given_bytes_;
    for (uint32_t i = 0; i < column.slot_count; ++i) {
      for (uint32_t r = 0; r < draft_.replica_count(); ++r) {
        if (draft_.owner(column.first_slot + i, r) != kNoNode) continue;
        given_bytes_ += static_cast<uint64_t>(draft_.slot_bytes(column.first_slot + i));
      }
    }
    if (given_bytes_ == given_before) return;
    // The last slot may be smaller: it goes to nodes that are ahead.
    RankAll(c, -1);
    FillSlot(c, column.first_slot + column.slot_count - 1);
    RankAll(c, 0);
    for (uint32_t i = 0; i + 1 < column.slot_count; ++i) FillSlot(c, column.first_slot + i);
  }

  void FillSlot(uint32_t c, uint32_t slot) {
    for (uint32_t r = 0; r < draft_.replica_count(); ++r) {
      if (draft_.owner(slot, r) != kNoNode) continue;
      // Memory may be so tight that only an exchange makes room: the balance sees to that.
      if (!FillPlace(c, slot, r, true)) (void)FillPlace(c, slot, r, false);
    }
  }

  // What a node should have got of the places up to this column, and has not. The whole target
  // would not do: a large node is always furthest from it.
  [[nodiscard]] double BehindBytes(uint32_t n) const {
    const double part = std::min(1.0, static_cast<double>(given_bytes_) / lacked_bytes_sum_);
    return start_bytes_[n] + lacked_bytes_[n] * part -
           static_cast<double>(draft_.node(n).held_bytes);
  }

  // What goes beyond a target will have to move on. In a first layout that costs nothing, and the
  // last columns come out even only with some play.
  [[nodiscard]] bool HasRoom(uint32_t n) const {
    return draft_.node(n).surplus() < (draft_.first_layout() ? draft_.full_slot_bytes() : 0);
  }

  [[nodiscard]] Rank NodeRank(uint32_t n, uint32_t c, uint64_t salt) const {
    Rank rank;
    rank.has_room = HasRoom(n);
    rank.column_slots = WholeSlots(draft_.Lacks(n, c));
    // A node that gets whole slots gets them in any order: the hash mixes who shares a slot.
    rank.behind_bytes = BehindBytes(n) * (rank.column_slots >= 1 ? whole_slots_weight_ : 1);
    rank.hash = MixBits(draft_.node(n).name_hash ^ salt);
    return rank;
  }

  void RankAll(uint32_t c, double whole_slots_weight) {
    whole_slots_weight_ = whole_slots_weight;
    for (RankedQueue& zone : zones_) zone = RankedQueue();
    std::fill(zone_rest_.begin(), zone_rest_.end(), ZoneRest{});
    const uint64_t salt = MixBits(c + 1);
    for (uint32_t n = 0; n < draft_.node_count(); ++n) {
      const OwnerDraft::Node& node = draft_.node(n);
      if (!node.accepts) continue;
      zone_rest_[node.zone].column_slots += draft_.Lacks(n, c);
      zone_rest_[node.zone].behind_bytes += BehindBytes(n);
      zones_[node.zone].push({NodeRank(n, c, salt), n});
    }
    queue_ = RankedQueue();
    for (uint32_t z = 0; z < zones_.size(); ++z) {
      if (!zones_[z].empty()) queue_.push({ZoneRank(z), z});
    }
  }

  // The zone that lacks most of the column first: that keeps later slots placeable in different
  // zones.
  [[nodiscard]] Rank ZoneRank(uint32_t zone) const {
    Rank rank;
    rank.has_room = zones_[zone].top().rank.has_room;
    rank.column_slots = WholeSlots(zone_rest_[zone].column_slots);
    rank.behind_bytes =
        zone_rest_[zone].behind_bytes * (rank.column_slots >= 1 ? whole_slots_weight_ : 1);
    rank.hash = zones_[zone].top().rank.hash;
    return rank;
  }

  // The first node of a zone that can take the slot. It is left at the top of the zone's queue.
  std::optional<uint32_t> FirstOfZone(uint32_t zone, uint32_t slot, bool must_fit,
                                      std::vector<Ranked>* aside) {
    RankedQueue& nodes = zones_[zone];
    while (!nodes.empty()) {
      const uint32_t n = nodes.top().index;
      if (!draft_.Holds(slot, n) && (!must_fit || draft_.Fits(slot, n))) return n;
      aside->push_back(nodes.top());
      nodes.pop();
    }
    return std::nullopt;
  }

  // 3: a node that is to get slots of this column, in a zone that the slot has not. Where zones
  // cannot always be kept apart, a zone of few nodes would otherwise fill up with the first
  // columns.
  [[nodiscard]] int Preference(uint32_t c, uint32_t slot, uint32_t replica, uint32_t n) const {
    const bool zone_free = draft_.ZoneIsFree(slot, replica, n);
    if (draft_.zones_part()) return (zone_free ? 2 : 0) + (HasRoom(n) ? 1 : 0);
    const bool wants = HasRoom(n) && draft_.Lacks(n, c) > kSlotEpsilon;
    return (wants ? 2 : 0) + (zone_free ? 1 : 0);
  }

  // False when there is no such node.
  bool FillPlace(uint32_t c, uint32_t slot, uint32_t replica, bool must_fit) {
    std::optional<uint32_t> best;
    int best_preference = -1;
    std::vector<Ranked>& looked_at = zones_aside_;
    looked_at.clear();
    while (!queue_.empty() && best_preference < 3) {
      const uint32_t zone = queue_.top().index;
      looked_at.push_back(queue_.top());
      queue_.pop();
      nodes_aside_.clear();
      const std::optional<uint32_t> n = FirstOfZone(zone, slot, must_fit, &nodes_aside_);
      if (n.has_value() && Preference(c, slot, replica, *n) > best_preference) {
        best = n;
        best_preference = Preference(c, slot, replica, *n);
      }
      for (const Ranked& node : nodes_aside_) zones_[zone].push(node);
    }
    if (best.has_value()) Give(c, slot, replica, *best);
    for (const Ranked& zone : looked_at) {
      const bool changed = best.has_value() && draft_.node(*best).zone == zone.index;
      queue_.push(changed ? Ranked{ZoneRank(zone.index), zone.index} : zone);
    }
    return best.has_value();
  }

  void Give(uint32_t c, uint32_t slot, uint32_t replica, uint32_t n) {
    draft_.Place(slot, replica, n);
    const uint32_t zone = draft_.node(n).zone;
    zone_rest_[zone].column_slots -= 1;
    zone_rest_[zone].behind_bytes -= static_cast<double>(draft_.slot_bytes(slot));
    RankedQueue& nodes = zones_[zone];
    nodes_aside_.clear();
    while (nodes.top().index != n) {
      nodes_aside_.push_back(nodes.top());
      nodes.pop();
    }
    nodes.pop();
    nodes.push({NodeRank(n, c, MixBits(uint64_t{slot} + 0x9e3779b97f4a7c15ull)), n});
    for (const Ranked& node : nodes_aside_) nodes.push(node);
  }

  struct ZoneRest {
    double column_slots = 0;  // that its nodes lack together
    double behind_bytes = 0;
  };

  OwnerDraft& draft_;
  std::vector<double> start_bytes_;   // [nodes] held before
  std::vector<double> lacked_bytes_;  // [nodes]
  double lacked_bytes_sum_ = 0;
  double whole_slots_weight_ = 0;    // of being behind, for nodes that lack whole slots
  uint64_t given_bytes_ = 0;         // of the open places up to the current column
  std::vector<RankedQueue> zones_;   // [zones] of nodes, in the current column
  std::vector<ZoneRest> zone_rest_;  // [zones] in the current column
  RankedQueue queue_;                // of zones
  std::vector<Ranked> nodes_aside_;  // while one is looked for
  std::vector<Ranked> zones_aside_;
};

}  // namespace

void FillOpenPlaces(OwnerDraft& draft) { OpenPlaceFiller(draft).Fill(); }

}  // namespace engram
