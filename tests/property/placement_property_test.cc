// PlanOwners against the facts that a plan must keep, over random clusters and the changes that
// happen to them: nodes that join, drain, get lost and come back.
#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "coordinator/placement.h"
#include "engram/table/shard_map.h"

namespace engram {
namespace {

TableLayout SomeLayout() {
  TableSpec spec;
  spec.hash.max_ngram_size = *rc::gen::inRange(2, 4);
  spec.hash.head_count = *rc::gen::inRange(1, 4);
  const int64_t rows = *rc::gen::inRange<int64_t>(40, 9'000);
  spec.hash.base_sizes.assign(static_cast<size_t>(spec.hash.max_ngram_size - 1), rows);
  spec.hash.layer_ids = {1};
  spec.hash.compressed_vocab_size = 100;
  spec.row_values = 32;
  auto layout = TableLayout::Create(spec);
  RC_ASSERT(layout.has_value());
  return *std::move(layout);
}

// The zone that a node counts for.
std::string ZoneOf(const PlacementNode& node) {
  return node.zone.empty() ? "of its own: " + node.id : node.zone;
}

struct EqualNodes {};
constexpr EqualNodes kEqualNodes;

// A cluster's nodes and one version's owners on them.
class Cluster {
 public:
  // Nodes of several capacities, some of them in zones.
  Cluster() : Cluster({1ull << 40, 2ull << 40, 5ull << 39}, *rc::gen::inRange(0, 5)) {}
  // Nodes of one capacity, each its own zone.
  explicit Cluster(EqualNodes) : Cluster({1ull << 40}, 0) {}

  void Change(int count) {
    for (int i = 0; i < count; ++i) ChangeOne();
    Plan();
  }

  [[nodiscard]] const std::vector<NodeIndex>& owners() const { return owners_; }
  [[nodiscard]] uint32_t replicas() const { return replicas_; }
  [[nodiscard]] const TableLayout& layout() const { return layout_; }
  [[nodiscard]] const std::vector<PlacementNode>& nodes() const { return nodes_; }
  [[nodiscard]] const std::vector<NodeIndex>& before() const { return before_; }

  [[nodiscard]] uint32_t Accepting() const {
    return static_cast<uint32_t>(std::count_if(nodes_.begin(), nodes_.end(),
                                               [](const PlacementNode& n) { return n.accepts; }));
  }
  [[nodiscard]] bool ZonesAllow() const {
    std::set<std::string> zones;
    for (const PlacementNode& node : nodes_) {
      if (node.accepts) zones.insert(ZoneOf(node));
    }
    return zones.size() >= replicas_;  // memory is never short here
  }
  [[nodiscard]] std::vector<double> Held(const std::vector<NodeIndex>& owners) const {
    std::vector<double> bytes(nodes_.size(), 0);
    for (size_t i = 0; i < owners.size(); ++i) {
      if (owners[i] == kNoNode) continue;
      bytes[owners[i].value()] +=
          static_cast<double>(layout_.slot_bytes(SlotIndex(static_cast<uint32_t>(i / replicas_))));
    }
    return bytes;
  }
  [[nodiscard]] double SlotBytes() const {
    return static_cast<double>(layout_.slot_rows()) * layout_.row_stride();
  }

 private:
  Cluster(std::vector<uint64_t> capacities, int zones)
      : layout_(SomeLayout()),
        replicas_(*rc::gen::inRange(1u, kReplicasMax + 1)),
        capacities_(std::move(capacities)) {
    for (int z = 0; z < zones; ++z) zones_.push_back("z" + std::to_string(z));
    if (zones == 0 || *rc::gen::arbitrary<bool>()) zones_.emplace_back();
    const int count = *rc::gen::inRange(static_cast<int>(replicas_), 12);
    for (int i = 0; i < count; ++i) AddNode();
    Plan();
  }

  void AddNode() {
    PlacementNode node;
    node.id = "node" + std::to_string(nodes_.size());
    node.zone = *rc::gen::elementOf(zones_);
    node.capacity_bytes = *rc::gen::elementOf(capacities_);
    nodes_.push_back(node);
  }

  void ChangeOne() {
    const size_t n = *rc::gen::inRange<size_t>(0, nodes_.size());
    switch (*rc::gen::inRange(0, 4)) {
      case 0:
        if (nodes_.size() < 16) AddNode();
        return;
      case 1:  // drains
        nodes_[n].accepts = false;
        return;
      case 2:  // is lost, and its replicas are forgotten
        nodes_[n].accepts = false;
        for (uint32_t slot = 0; slot < layout_.slot_count(); ++slot) {
          const auto first = owners_.begin() + slot * replicas_;
          std::replace(first, first + replicas_, NodeIndex(static_cast<uint32_t>(n)), kNoNode);
          std::stable_partition(first, first + replicas_,
                                [](NodeIndex owner) { return owner != kNoNode; });
        }
        return;
      default:  // the first that is away comes back
        for (PlacementNode& node : nodes_) {
          if (node.accepts) continue;
          node.accepts = true;
          return;
        }
    }
  }

  void Plan() {
    before_ = owners_;
    const auto plan = PlanOwners(layout_, replicas_, nodes_, owners_);
    RC_ASSERT(plan.has_value());
    owners_ = *plan;
  }

  TableLayout layout_;
  uint32_t replicas_;
  std::vector<uint64_t> capacities_;
  std::vector<std::string> zones_;
  std::vector<PlacementNode> nodes_;
  std::vector<NodeIndex> before_;  // the last plan's `current`
  std::vector<NodeIndex> owners_;
};

// Bytes of the slots with two replicas in one zone, by nodes that accept.
double BytesSharingZones(const Cluster& cluster, const std::vector<NodeIndex>& owners) {
  double bytes = 0;
  for (size_t slot = 0; slot * cluster.replicas() < owners.size(); ++slot) {
    std::map<std::string, int> zones;
    for (uint32_t r = 0; r < cluster.replicas(); ++r) {
      const NodeIndex owner = owners[slot * cluster.replicas() + r];
      if (owner == kNoNode || !cluster.nodes()[owner.value()].accepts) continue;
      const int here = zones[ZoneOf(cluster.nodes()[owner.value()])]++;
      if (here == 0) continue;
      bytes +=
          static_cast<double>(cluster.layout().slot_bytes(SlotIndex(static_cast<uint32_t>(slot))));
    }
  }
  return bytes;
}

void CheckReplicas(const Cluster& cluster) {
  const uint32_t replicas = cluster.replicas();
  const uint32_t accepting = cluster.Accepting();
  RC_ASSERT(cluster.owners().size() == size_t{cluster.layout().slot_count()} * replicas);
  for (size_t slot = 0; slot < cluster.layout().slot_count(); ++slot) {
    std::set<NodeIndex> seen;
    uint32_t on_accepting = 0;
    bool ended = false;
    for (uint32_t r = 0; r < replicas; ++r) {
      const NodeIndex owner = cluster.owners()[slot * replicas + r];
      if (owner == kNoNode) {
        ended = true;
        continue;
      }
      RC_ASSERT(!ended);  // kNoNode is always after the others
      RC_ASSERT(seen.insert(owner).second);
      if (cluster.nodes()[owner.value()].accepts) {
        ++on_accepting;
      } else {  // it stays where it was, for want of another node
        const auto before = cluster.before().begin() + static_cast<ptrdiff_t>(slot * replicas);
        RC_ASSERT(std::find(before, before + replicas, owner) != before + replicas);
      }
    }
    RC_ASSERT(on_accepting == std::min(accepting, replicas));
  }
}

// The water level: what no group has more than a copy of, and else by capacity.
std::vector<double> ModelTargets(const Cluster& cluster) {
  const auto group = [&](const PlacementNode& node) {
    return cluster.ZonesAllow() ? ZoneOf(node) : node.id;
  };
  std::map<std::string, double> capacity;
  for (const PlacementNode& node : cluster.nodes()) {
    if (node.accepts) capacity[group(node)] += static_cast<double>(node.capacity_bytes);
  }
  double low = 0;
  double high = 1;  // copies per byte of capacity
  for (int i = 0; i < 200; ++i) {
    const double middle = (low + high) / 2;
    double copies = 0;
    for (const auto& [name, bytes] : capacity) copies += std::min(1.0, middle * bytes);
    (copies < cluster.replicas() ? low : high) = middle;
  }
  std::vector<double> targets;
  for (const PlacementNode& node : cluster.nodes()) {
    const double all = node.accepts ? capacity[group(node)] : 1;
    const double part = node.accepts ? static_cast<double>(node.capacity_bytes) / all : 0;
    targets.push_back(part * std::min(1.0, high * all) *
                      static_cast<double>(cluster.layout().total_bytes()));
  }
  return targets;
}

void CheckTotals(const Cluster& cluster) {
  const std::vector<double> held = cluster.Held(cluster.owners());
  const std::vector<double> model = ModelTargets(cluster);
  const std::vector<uint64_t> targets =
      TargetBytes(cluster.layout(), cluster.replicas(), cluster.nodes());
  for (size_t n = 0; n < held.size(); ++n) {
    RC_ASSERT(std::abs(model[n] - static_cast<double>(targets[n])) <=
              1 + 1e-6 * static_cast<double>(cluster.layout().total_bytes()));
    if (!cluster.nodes()[n].accepts) continue;
    RC_ASSERT(std::abs(held[n] - model[n]) < cluster.SlotBytes() + 2);
  }
}

// A column's slots on nodes of equal targets.
uint32_t ColumnDifference(const Cluster& cluster) {
  const std::vector<uint64_t> targets =
      TargetBytes(cluster.layout(), cluster.replicas(), cluster.nodes());
  uint32_t difference = 0;
  for (int32_t c = 0; c < cluster.layout().column_count(); ++c) {
    const TableLayout::Column& column = cluster.layout().column(0, c);
    std::vector<uint32_t> slots(targets.size(), 0);
    for (size_t i = size_t{column.first_slot} * cluster.replicas();
         i < size_t{column.first_slot + column.slot_count} * cluster.replicas(); ++i) {
      if (cluster.owners()[i] != kNoNode) ++slots[cluster.owners()[i].value()];
    }
    for (size_t a = 0; a < slots.size(); ++a) {
      for (size_t b = 0; b < slots.size(); ++b) {
        if (!cluster.nodes()[a].accepts || !cluster.nodes()[b].accepts) continue;
        if (targets[a] != targets[b] || slots[a] < slots[b]) continue;
        difference = std::max(difference, slots[a] - slots[b]);
      }
    }
  }
  return difference;
}

// What can be known of the least bytes of a change without planning it. A node must gain what it
// lacks; so must a zone. What a group lacks beyond the open places that it may fill comes from
// replicas that had a node already, in addition to all those that had none.
double LeastBytes(const Cluster& cluster) {
  const std::vector<double> held = cluster.Held(cluster.before());
  const std::vector<double> targets = ModelTargets(cluster);
  const uint32_t replicas = cluster.replicas();
  std::vector<double> least = {0, 0, 0};
  for (size_t n = 0; n < held.size(); ++n) {
    if (cluster.nodes()[n].accepts) least[0] += std::max(0.0, targets[n] - held[n]);
  }
  for (const bool by_zone : {false, true}) {
    if (by_zone && !cluster.ZonesAllow()) continue;
    std::map<std::string, double> lacks;
    const auto group = [&](size_t n) {
      return by_zone ? ZoneOf(cluster.nodes()[n]) : cluster.nodes()[n].id;
    };
    for (size_t n = 0; n < held.size(); ++n) {
      if (cluster.nodes()[n].accepts) lacks[group(n)] += targets[n] - held[n];
    }
    double& bytes = least[by_zone ? 2 : 1];
    for (size_t slot = 0; slot < cluster.layout().slot_count(); ++slot) {
      const auto slot_bytes =
          static_cast<double>(cluster.layout().slot_bytes(SlotIndex(static_cast<uint32_t>(slot))));
      std::set<std::string> there;
      uint32_t kept = 0;
      for (uint32_t r = 0; r < replicas; ++r) {
        const NodeIndex owner = cluster.before()[slot * replicas + r];
        if (owner == kNoNode || !cluster.nodes()[owner.value()].accepts) continue;
        there.insert(group(owner.value()));
        ++kept;
      }
      const uint32_t open = std::min(replicas, cluster.Accepting()) - kept;
      bytes += open * slot_bytes;
      if (open == 0) continue;
      for (auto& [name, lack] : lacks) {
        if (!there.contains(name)) lack -= slot_bytes;
      }
    }
    for (const auto& [name, lack] : lacks) bytes += std::max(0.0, lack);
  }
  return *std::max_element(least.begin(), least.end());
}

// Slots are whole: a node may get a part of one more than it lacks. To part two replicas can take
// an exchange.
void CheckMoved(const Cluster& cluster, double times_least) {
  const std::vector<double> held = cluster.Held(cluster.before());
  const std::vector<double> targets = ModelTargets(cluster);
  double gaining = 0;
  for (size_t n = 0; n < held.size(); ++n) {
    if (cluster.nodes()[n].accepts && held[n] < targets[n]) ++gaining;
  }
  const double for_zones =
      cluster.ZonesAllow() ? 2 * BytesSharingZones(cluster, cluster.before()) : 0;
  const auto moves = MovesBetween(cluster.replicas(), cluster.before(), cluster.owners());
  const auto moved = static_cast<double>(MovedBytes(cluster.layout(), moves));
  const double least = LeastBytes(cluster);
  RC_ASSERT(moved <= times_least * least + gaining * cluster.SlotBytes() + for_zones);
}

void CheckOrder(const Cluster& cluster) {
  const uint32_t replicas = cluster.replicas();
  for (size_t slot = 0; slot < cluster.layout().slot_count(); ++slot) {
    for (uint32_t r = 0; r < replicas; ++r) {
      const NodeIndex owner = cluster.before()[slot * replicas + r];
      const auto after = cluster.owners().begin() + static_cast<ptrdiff_t>(slot * replicas);
      if (std::find(after, after + replicas, owner) == after + replicas) continue;
      RC_ASSERT(owner == kNoNode || after[r] == owner || after[replicas - 1] == kNoNode);
    }
  }
}

void CheckStable(const Cluster& cluster) {
  const auto again =
      PlanOwners(cluster.layout(), cluster.replicas(), cluster.nodes(), cluster.owners());
  RC_ASSERT(again.has_value());
  const bool same = *again == cluster.owners();  // not shown in full
  RC_ASSERT(same);
}

void CheckAll(const Cluster& cluster) {
  CheckReplicas(cluster);
  CheckTotals(cluster);
  if (cluster.ZonesAllow()) RC_ASSERT(BytesSharingZones(cluster, cluster.owners()) == 0);
  CheckStable(cluster);
}

// Whether the constraints leave a way that moves the least depends on which replicas share slots.
// In small clusters of unequal nodes and zones, after several changes at once, they may not.
constexpr double kTimesLeastAnywhere = 2.0;  // 1.5 is the most that was seen
constexpr double kTimesLeast = 1.1;
// A change evens columns only among the slots that it moves anyway: 1 nearly always, 2 in some four
// plans of a hundred; 3 was seen once in ten thousand.
constexpr uint32_t kColumnDifferenceMax = 4;

RC_GTEST_PROP(PlacementProperty, EveryPlanKeepsTheFactsWhateverChanged, ()) {
  Cluster cluster;
  CheckAll(cluster);
  const int changes = *rc::gen::inRange(1, 8);
  for (int i = 0; i < changes; ++i) {
    cluster.Change(*rc::gen::weightedElement<int>({{4, 1}, {2, 2}, {1, 3}, {1, 0}}));
    CheckAll(cluster);
    CheckMoved(cluster, kTimesLeastAnywhere);
    CheckOrder(cluster);
  }
}

RC_GTEST_PROP(PlacementProperty, OneChangeAmongEqualsMovesHardlyMoreThanTheLeast, ()) {
  Cluster cluster(kEqualNodes);
  RC_ASSERT(ColumnDifference(cluster) <= 1);
  const int changes = *rc::gen::inRange(1, 8);
  for (int i = 0; i < changes; ++i) {
    cluster.Change(1);
    CheckAll(cluster);
    CheckMoved(cluster, kTimesLeast);
    RC_ASSERT(ColumnDifference(cluster) <= kColumnDifferenceMax);
  }
}

// A plan is refused only for want of memory, and never gives a node more than it has.
RC_GTEST_PROP(PlacementProperty, NoNodeGetsMoreThanItsMemory, ()) {
  const TableLayout layout = SomeLayout();
  const uint32_t replicas = *rc::gen::inRange(1u, kReplicasMax + 1);
  const auto count = *rc::gen::inRange<uint32_t>(replicas, 8);
  const double fair = static_cast<double>(layout.total_bytes()) * replicas / count;
  const double slot_bytes = static_cast<double>(layout.slot_rows()) * layout.row_stride();
  std::vector<PlacementNode> nodes;
  double free = 0;
  for (uint32_t i = 0; i < count; ++i) {
    PlacementNode node;
    node.id = std::to_string(i);
    node.zone = *rc::gen::element<std::string>("", "x", "y");
    node.used_bytes = *rc::gen::inRange<uint64_t>(0, 1000);
    node.capacity_bytes =
        static_cast<uint64_t>(fair * *rc::gen::inRange(80, 200) / 100) + node.used_bytes;
    free += static_cast<double>(node.capacity_bytes - node.used_bytes);
    nodes.push_back(node);
  }
  const std::vector<uint64_t> targets = TargetBytes(layout, replicas, nodes);
  bool targets_fit = true;
  for (uint32_t i = 0; i < count; ++i) {
    targets_fit = targets_fit && targets[i] + nodes[i].used_bytes <= nodes[i].capacity_bytes;
  }
  const auto owners = PlanOwners(layout, replicas, nodes, {});
  if (!owners.has_value()) {
    RC_ASSERT(owners.error().code() == StatusCode::kResourceExhausted);
    RC_ASSERT(!targets_fit || free < fair * count + slot_bytes * count);
    return;
  }
  RC_ASSERT(targets_fit);
  std::vector<uint64_t> held(count, 0);
  for (size_t i = 0; i < owners->size(); ++i) {
    held[(*owners)[i].value()] += layout.slot_bytes(SlotIndex(static_cast<uint32_t>(i / replicas)));
  }
  for (uint32_t i = 0; i < count; ++i) {
    RC_ASSERT(held[i] + nodes[i].used_bytes <= nodes[i].capacity_bytes);
  }
}

}  // namespace
}  // namespace engram
