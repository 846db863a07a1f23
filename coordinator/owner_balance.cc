// Moves slots between nodes: to part the zones of replicas, and to bring every node to its target.
#include <algorithm>
#include <cmath>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/owner_draft.h"

namespace engram {
namespace {

// Looks at slots, over all searches for chains of one round: about a quarter of a second. Only a
// cluster whose constraints leave some node no way to its target comes near.
constexpr int64_t kChainLooksMax = 5'000'000;

struct Hop {
  uint32_t slot = 0;
  uint32_t from = 0;
  uint32_t to = 0;
};

class NodeBalancer {
 public:
  explicit NodeBalancer(OwnerDraft& draft)
      : draft_(draft), slot_bytes_(draft.full_slot_bytes()), stuck_(draft.node_count(), false) {
    for (uint32_t n = 0; n < draft.node_count(); ++n) {
      receives_.push_back(draft.node(n).surplus() < -slot_bytes_);
    }
  }

  // Every move narrows the gap between two nodes that are more than a slot apart, so this ends.
  void Balance() {
    bool moved = false;
    while (true) {
      const std::optional<uint32_t> n = FurthestOff();
      if (!n.has_value()) {
        if (!moved) return;
        // What other nodes did may have freed those that were stuck.
        moved = false;
        std::fill(stuck_.begin(), stuck_.end(), false);
        continue;
      }
      if (MoveOne(*n)) {
        moved = true;
      } else {
        stuck_[*n] = true;
      }
    }
  }

 private:
  // More than a whole slot off its target, or beyond its memory. Who is nearer stays, so that a
  // plan's result is at rest; but who must receive anyway does so until it is less than half a slot
  // off.
  [[nodiscard]] std::optional<uint32_t> FurthestOff() const {
    std::optional<uint32_t> furthest;
    int64_t most = 0;
    for (uint32_t n = 0; n < draft_.node_count(); ++n) {
      const int64_t surplus = draft_.node(n).surplus();
      if (!draft_.node(n).accepts || stuck_[n] || std::abs(surplus) <= most) continue;
      const bool must = std::abs(surplus) > slot_bytes_ || draft_.node(n).OverfullBytes() > 0 ||
                        (receives_[n] && surplus < 0 && -surplus > slot_bytes_ / 2);
      if (!must) continue;
      furthest = n;
      most = std::abs(surplus);
    }
    return furthest;
  }

  // What a way of moving a slot may do.
  struct Way {
    bool only_new = false;  // only slots that move in this plan already: it costs nothing more
    bool keep_columns =
        false;  // only where it brings both nodes nearer to their share of the column
    bool part_zones = true;
    bool prefer_new = true;
  };

  // One slot to `n` or away from it, by the way that costs least.
  bool MoveOne(uint32_t n) {
    const bool receives = draft_.node(n).surplus() < 0;
    if (!AnyHelps(n, receives)) return false;
    if (AnyNewSlots(n, receives)) {
      if (MoveDirectly(n, receives, {true, true, true})) return true;
      if (MoveDirectly(n, receives, {true, false, true})) return true;
      if (MoveThroughOthers(n, receives, {true, false, draft_.zones_part()})) return true;
    }
    if (MoveDirectly(n, receives, {false, true, true})) return true;
    if (MoveDirectly(n, receives, {false, false, true})) return true;
    if (!draft_.zones_part()) {
      if (MoveDirectly(n, receives, {false, true, false})) return true;
      if (MoveDirectly(n, receives, {false, false, false})) return true;
    }
    // The second time as a plan that finds these owners as they are would look, so that it finds
    // nothing more.
    return MoveThroughOthers(n, receives, {false, false, draft_.zones_part()}) ||
           MoveThroughOthers(n, receives, {false, false, draft_.zones_part(), false});
  }

  // These two save searches that would find nothing: a chain too ends at a node that helps.
  [[nodiscard]] bool AnyHelps(uint32_t n, bool receives) const {
    for (uint32_t other = 0; other < draft_.node_count(); ++other) {
      if (Helps(n, other, receives)) return true;
    }
    return false;
  }
  [[nodiscard]] bool AnyNewSlots(uint32_t n, bool receives) const {
    if (!receives) return draft_.NewSlots(n) > 0;
    for (uint32_t other = 0; other < draft_.node_count(); ++other) {
      if (draft_.NewSlots(other) > 0 && Helps(n, other, receives)) return true;
    }
    return false;
  }

  // `other` is on the other side of its target, and one slot narrows the gap.
  [[nodiscard]] bool Helps(uint32_t n, uint32_t other, bool receives) const {
    if (other == n || !draft_.node(other).accepts) return false;
    if (draft_.node(n).OverfullBytes() > 0) return draft_.node(other).surplus() < 0;
    const int64_t ours = draft_.node(n).surplus();
    const int64_t theirs = draft_.node(other).surplus();
    return receives ? theirs > 0 && theirs - ours > slot_bytes_
                    : theirs < 0 && ours - theirs > slot_bytes_;
  }

  struct Partner {
    bool must = false;  // it is off by a whole slot itself
    double column_gain = 0;
    uint64_t hash = 0;
    uint32_t n = 0;
    // NOLINTNEXTLINE(modernize-use-nullptr): its 0 is an ordering
    friend auto operator<=>(const Partner&, const Partner&) = default;
  };

  bool MoveDirectly(uint32_t n, bool receives, const Way& way) {
    // How much of the column n should get or give.
    const auto wants = [&](uint32_t c) {
      return receives ? draft_.Lacks(n, c) : -draft_.Lacks(n, c);
    };
    std::vector<uint32_t> columns(draft_.column_count());
    for (uint32_t c = 0; c < columns.size(); ++c) columns[c] = c;
    const uint64_t name_hash = draft_.node(n).name_hash;
    std::sort(columns.begin(), columns.end(), [&](uint32_t a, uint32_t b) {
      if (wants(a) != wants(b)) return wants(a) > wants(b);
      return MixBits(name_hash ^ MixBits(a + 1)) > MixBits(name_hash ^ MixBits(b + 1));
    });
    for (const uint32_t c : columns) {
      if (way.keep_columns && wants(c) < kColumnEpsilon) return false;
      if (!receives && draft_.SlotsOf(n, c).empty()) continue;
      RankPartners(n, c, receives, way);
      while (!partners_.empty()) {
        const uint32_t other = partners_.front().n;
        const uint32_t from = receives ? other : n;
        const uint32_t to = receives ? n : other;
        const std::optional<uint32_t> slot = ChooseSlot(from, to, c, way, true);
        if (slot.has_value()) {
          draft_.Move(*slot, from, to);
          return true;
        }
        std::pop_heap(partners_.begin(), partners_.end());
        partners_.pop_back();
      }
    }
    return false;
  }

  void RankPartners(uint32_t n, uint32_t c, bool receives, const Way& way) {
    partners_.clear();
    const uint64_t salt = MixBits(draft_.node(n).name_hash + c);
    for (uint32_t other = 0; other < draft_.node_count(); ++other) {
      if (!Helps(n, other, receives)) continue;
      if (receives && way.only_new && draft_.NewSlots(other) == 0) continue;
      const double gain = receives ? -draft_.Lacks(other, c) : draft_.Lacks(other, c);
      if (way.keep_columns && gain < kColumnEpsilon) continue;
      partners_.push_back({std::abs(draft_.node(other).surplus()) > slot_bytes_, gain,
                           MixBits(draft_.node(other).name_hash ^ salt), other});
    }
    std::make_heap(partners_.begin(), partners_.end());
  }

  // A slot of one column that may move. One whose replicas it parts first, then a new one.
  std::optional<uint32_t> ChooseSlot(uint32_t from, uint32_t to, uint32_t c, const Way& way,
                                     bool must_fit) {
    std::optional<uint32_t> best;
    uint64_t best_rank = 0;
    for (const uint32_t slot : draft_.SlotsOf(from, c)) {
      ++looks_;
      const bool is_new = draft_.IsNewOn(slot, from);
      if (way.only_new && !is_new) continue;
      if (draft_.Holds(slot, to) || (must_fit && !draft_.Fits(slot, to))) continue;
      if (way.part_zones && !draft_.KeepsZonesApart(slot, from, to)) continue;
      const uint32_t replica = draft_.ReplicaOn(slot, from);
      const bool parts =
          !draft_.ZoneIsFree(slot, replica, from) && draft_.ZoneIsFree(slot, replica, to);
      const uint64_t rank = uint64_t{parts} << 63 | uint64_t{is_new && way.prefer_new} << 62 |
                            MixBits(draft_.node(to).name_hash ^ slot) >> 2;
      if (best.has_value() && rank <= best_rank) continue;
      best = slot;
      best_rank = rank;
    }
    return best;
  }

  std::optional<uint32_t> AnySlot(uint32_t from, uint32_t to, const Way& way) {
    if (way.only_new && draft_.NewSlots(from) == 0) return std::nullopt;
    for (uint32_t c = 0; c < draft_.column_count(); ++c) {
      const auto slot = ChooseSlot(from, to, c, way, false);
      if (slot.has_value()) return slot;
    }
    return std::nullopt;
  }

  struct ChainStep {
    uint32_t n = 0;
    uint32_t parent = 0;  // in the list of steps
    uint32_t slot = 0;    // that moves between the two
  };

  // A chain of moves over nodes that keep their totals: a search over (node, moves that cost) in
  // the order of the cost. Nodes reached over new slots go before the others.
  bool MoveThroughOthers(uint32_t n, bool receives, const Way& way) {
    const Way free_way = {true, false, way.part_zones};
    const int64_t looks_before = looks_;
    std::vector<ChainStep> steps = {{n, 0, 0}};
    std::deque<uint32_t> free_steps = {0};  // to go on from
    std::vector<uint32_t> next_steps;       // that cost one move more
    std::vector<bool> seen(draft_.node_count(), false);
    seen[n] = true;
    bool moved = false;
    const auto look = [&](uint32_t at, const Way& edge) {
      for (uint32_t other = 0; other < draft_.node_count() && !moved; ++other) {
        if (seen[other] || !draft_.node(other).accepts) continue;
        if (++looks_; chain_looks_ + looks_ - looks_before > kChainLooksMax) return;
        const uint32_t near = steps[at].n;
        const auto slot = receives ? AnySlot(other, near, edge) : AnySlot(near, other, edge);
        if (!slot.has_value()) continue;
        seen[other] = true;
        steps.push_back({other, at, *slot});
        const auto step = static_cast<uint32_t>(steps.size() - 1);
        free_steps.push_back(step);
        if (Helps(n, other, receives)) moved = ApplyChain(steps, step, receives);
      }
    };
    while (!moved && (!free_steps.empty() || !next_steps.empty())) {
      while (!moved && !free_steps.empty()) {
        const uint32_t at = free_steps.front();
        free_steps.pop_front();
        if (way.prefer_new) look(at, free_way);
        next_steps.push_back(at);
      }
      if (way.only_new) break;
      for (const uint32_t at : std::exchange(next_steps, {})) {
        if (!moved) look(at, way);
      }
    }
    chain_looks_ += looks_ - looks_before;
    return moved;
  }

  bool ApplyChain(const std::vector<ChainStep>& steps, uint32_t last, bool receives) {
    std::vector<Hop> hops;  // from the far end
    for (uint32_t s = last; s != 0; s = steps[s].parent) {
      const uint32_t near = steps[steps[s].parent].n;
      hops.push_back({steps[s].slot, receives ? steps[s].n : near, receives ? near : steps[s].n});
    }
    // Into the node that has room first, so that each hop makes room for the next.
    if (receives) std::reverse(hops.begin(), hops.end());
    return Apply(hops);
  }

  // All of a chain or nothing: hops of one slot can spoil each other, and slots differ in size.
  bool Apply(const std::vector<Hop>& hops) {
    const auto before = Badness(hops);
    size_t done = 0;
    for (; done < hops.size(); ++done) {
      const Hop& hop = hops[done];
      if (draft_.Holds(hop.slot, hop.to) || !draft_.Fits(hop.slot, hop.to)) break;
      if (draft_.zones_part() && !draft_.KeepsZonesApart(hop.slot, hop.from, hop.to)) break;
      draft_.Move(hop.slot, hop.from, hop.to);
    }
    if (done == hops.size() && Badness(hops) < before) return true;
    while (done-- > 0) draft_.Move(hops[done].slot, hops[done].to, hops[done].from);
    return false;
  }

  // What every move must lower: bytes beyond memory, then squares of what is off the targets.
  [[nodiscard]] std::pair<int64_t, double> Badness(const std::vector<Hop>& hops) const {
    std::pair<int64_t, double> sum;
    const auto add = [&](uint32_t n) {
      const auto surplus = static_cast<double>(draft_.node(n).surplus());
      sum.first += draft_.node(n).OverfullBytes();
      sum.second += surplus * surplus;
    };
    // The ends once and the nodes between once: each hop starts where another ends.
    for (const Hop& hop : hops) add(hop.from);
    for (const Hop& hop : hops) {
      const bool between = std::any_of(hops.begin(), hops.end(),
                                       [&](const Hop& other) { return other.from == hop.to; });
      if (!between) add(hop.to);
    }
    return sum;
  }

  static constexpr double kColumnEpsilon = 1e-6;

  OwnerDraft& draft_;
  const int64_t slot_bytes_;
  std::vector<bool> receives_;  // [nodes] lacked a whole slot at the beginning
  std::vector<bool> stuck_;     // [nodes]
  std::vector<Partner> partners_;
  int64_t looks_ = 0;
  int64_t chain_looks_ = 0;
};

// The node in a free zone that is furthest below its target, one that lacks of the column first.
std::optional<uint32_t> NodeInFreeZone(const OwnerDraft& draft, uint32_t slot, uint32_t replica,
                                       uint32_t column) {
  struct Rank {
    bool room = false;
    double column_slots = 0;
    int64_t lacks_bytes = 0;
    uint64_t hash = 0;
    // NOLINTNEXTLINE(modernize-use-nullptr): its 0 is an ordering
    auto operator<=>(const Rank&) const = default;
  };
  std::optional<uint32_t> best;
  Rank best_rank;
  for (uint32_t n = 0; n < draft.node_count(); ++n) {
    const OwnerDraft::Node& node = draft.node(n);
    if (!node.accepts || draft.Holds(slot, n) || !draft.Fits(slot, n)) continue;
    if (!draft.ZoneIsFree(slot, replica, n)) continue;
    const bool room = node.surplus() <= -draft.full_slot_bytes();
    const Rank rank{room, room ? draft.Lacks(n, column) : 0, -node.surplus(),
                    MixBits(node.name_hash ^ slot)};
    if (best.has_value() && rank <= best_rank) continue;
    best = n;
    best_rank = rank;
  }
  return best;
}

}  // namespace

void PartZones(OwnerDraft& draft) {
  if (!draft.zones_part()) return;
  for (uint32_t c = 0; c < draft.column_count(); ++c) {
    const TableLayout::Column& column = draft.column(c);
    for (uint32_t slot = column.first_slot; slot < column.first_slot + column.slot_count; ++slot) {
      // Of replicas that share a zone, the one on the node with more above its target moves.
      while (true) {
        std::optional<uint32_t> from;
        for (uint32_t r = 0; r < draft.replica_count(); ++r) {
          const NodeIndex owner = draft.owner(slot, r);
          if (owner == kNoNode || draft.ZoneIsFree(slot, r, owner.value())) continue;
          if (from.has_value() &&
              draft.node(owner.value()).surplus() < draft.node(*from).surplus()) {
            continue;
          }
          from = owner.value();
        }
        if (!from.has_value()) break;
        const auto to = NodeInFreeZone(draft, slot, draft.ReplicaOn(slot, *from), c);
        if (!to.has_value()) break;
        draft.Move(slot, *from, *to);
      }
    }
  }
}

void BalanceNodes(OwnerDraft& draft) { NodeBalancer(draft).Balance(); }

}  // namespace engram
