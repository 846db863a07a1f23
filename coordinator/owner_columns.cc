// Evens out columns by exchanging slots between two nodes, at no cost in bytes.
#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "coordinator/owner_draft.h"

namespace engram {
namespace {

// Slots looked at in one round: about a quarter of a second.
constexpr int64_t kLooksMax = 5'000'000;
constexpr double kSlotEpsilon = 1e-6;

class ColumnEvener {
 public:
  explicit ColumnEvener(OwnerDraft& draft) : draft_(draft) {
    std::map<double, std::vector<uint32_t>> by_share;
    for (uint32_t n = 0; n < draft.node_count(); ++n) {
      if (draft.node(n).accepts) by_share[draft.node(n).copies].push_back(n);
    }
    for (auto& [share, nodes] : by_share) groups_.push_back(std::move(nodes));
  }

  // Every exchange lowers the sum of squares of what nodes have above or below their share of each
  // column, so this ends.
  bool Even() {
    bool any = false;
    for (bool changed = true; changed;) {
      changed = false;
      for (uint32_t c = 0; c < draft_.column_count(); ++c) {
        for (std::vector<uint32_t>& nodes : groups_) {
          while (looks_ < kLooksMax && ExchangeOne(c, nodes)) changed = true;
        }
      }
      any = any || changed;
    }
    return any;
  }

 private:
  bool ExchangeOne(uint32_t c, std::vector<uint32_t>& nodes) {
    std::sort(nodes.begin(), nodes.end(), [&](uint32_t a, uint32_t b) {
      const double a_lacks = draft_.Lacks(a, c);
      const double b_lacks = draft_.Lacks(b, c);
      return a_lacks != b_lacks ? a_lacks > b_lacks : a < b;
    });
    for (const uint32_t lacking : nodes) {
      for (auto rich = nodes.rbegin(); rich != nodes.rend(); ++rich) {
        const double gap = draft_.Lacks(lacking, c) - draft_.Lacks(*rich, c);
        if (gap <= 1 + kSlotEpsilon) break;
        if (Exchange(*rich, lacking, c, gap)) return true;
        if (looks_ >= kLooksMax) return false;
      }
      const double most = draft_.Lacks(lacking, c) - draft_.Lacks(nodes.back(), c);
      if (most <= 1 + kSlotEpsilon) break;
    }
    return false;
  }

  struct Choice {
    uint32_t slot = 0;
    int cost = 2;  // more than any
  };

  // One slot of column `c` from `rich` to `lacking`, and one of another column back.
  bool Exchange(uint32_t rich, uint32_t lacking, uint32_t c, double gap) {
    looks_ += draft_.column_count();
    const std::optional<Choice> there = Choose(rich, lacking, c);
    if (!there.has_value()) return false;
    for (uint32_t other = 0; other < draft_.column_count(); ++other) {
      const double other_gap = draft_.Lacks(rich, other) - draft_.Lacks(lacking, other);
      if (other == c || gap + other_gap <= 2 + kSlotEpsilon) continue;
      const std::optional<Choice> back = Choose(lacking, rich, other);
      if (!back.has_value() || there->cost + back->cost > 0) continue;
      if (!StaysNearTargets(rich, lacking, there->slot, back->slot)) continue;
      draft_.Move(there->slot, rich, lacking);
      draft_.Move(back->slot, lacking, rich);
      return true;
    }
    return false;
  }

  // The slot of a column that costs least to move from one node to another.
  std::optional<Choice> Choose(uint32_t from, uint32_t to, uint32_t c) {
    std::optional<Choice> best;
    for (const uint32_t slot : draft_.SlotsOf(from, c)) {
      ++looks_;
      if (draft_.Holds(slot, to) || !draft_.KeepsZonesApart(slot, from, to)) continue;
      // What a plan copies: a slot that is new on a node, wherever it came from.
      const int cost = (draft_.IsNewOn(slot, to) ? 1 : 0) - (draft_.IsNewOn(slot, from) ? 1 : 0);
      if (!best.has_value() || cost < best->cost) best = Choice{slot, cost};
    }
    return best;
  }

  // Slots differ in size: an exchange must not undo what brought the nodes to their targets.
  [[nodiscard]] bool StaysNearTargets(uint32_t rich, uint32_t lacking, uint32_t there,
                                      uint32_t back) const {
    const int64_t bytes = draft_.slot_bytes(there) - draft_.slot_bytes(back);
    if (bytes == 0) return true;
    const uint32_t gainer = bytes > 0 ? lacking : rich;
    const uint32_t giver = bytes > 0 ? rich : lacking;
    const int64_t gap = draft_.node(giver).surplus() - draft_.node(gainer).surplus();
    return gap >= std::abs(bytes) &&
           draft_.node(gainer).held_bytes + std::abs(bytes) <= draft_.node(gainer).held_bytes_max;
  }

  OwnerDraft& draft_;
  std::vector<std::vector<uint32_t>> groups_;  // of nodes that accept and have equal shares
  int64_t looks_ = 0;
};

}  // namespace

bool EvenColumns(OwnerDraft& draft) { return ColumnEvener(draft).Even(); }

}  // namespace engram
