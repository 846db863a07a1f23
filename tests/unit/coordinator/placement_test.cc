#include "coordinator/placement.h"

#include <algorithm>
#include <map>
#include <set>

#include <gtest/gtest.h>

#include "engram/table/shard_map.h"

namespace engram {
namespace {

TableLayout Layout(int64_t base_rows) {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 4;
  spec.hash.head_count = 8;
  spec.hash.base_sizes = {base_rows, base_rows, base_rows};
  spec.hash.layer_ids = {1, 14};
  spec.hash.compressed_vocab_size = 1000;
  spec.row_values = 256;
  auto layout = TableLayout::Create(spec);
  EXPECT_TRUE(layout.has_value()) << layout.error().ToString();
  return *std::move(layout);
}

std::vector<PlacementNode> Nodes(int count, uint64_t capacity, int zones = 0) {
  std::vector<PlacementNode> nodes;
  for (int i = 0; i < count; ++i) {
    nodes.push_back({"m" + std::to_string(i), zones == 0 ? "" : "z" + std::to_string(i % zones),
                     capacity, 0, true});
  }
  return nodes;
}

std::vector<double> Bytes(const TableLayout& layout, const std::vector<NodeIndex>& owners,
                          size_t node_count, uint32_t replicas) {
  std::vector<double> bytes(node_count, 0);
  for (size_t i = 0; i < owners.size(); ++i) {
    bytes[owners[i].value()] +=
        static_cast<double>(layout.slot_bytes(SlotIndex(static_cast<uint32_t>(i / replicas))));
  }
  return bytes;
}

void ExpectColumnsSpread(const TableLayout& layout, const std::vector<NodeIndex>& owners,
                         size_t node_count, uint32_t replicas) {
  for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
    for (int32_t c = 0; c < layout.column_count(); ++c) {
      const TableLayout::Column& column = layout.column(layer, c);
      std::vector<uint32_t> slots(node_count, 0);
      for (uint32_t s = 0; s < column.slot_count; ++s) {
        for (uint32_t r = 0; r < replicas; ++r) {
          ++slots[owners[size_t{column.first_slot + s} * replicas + r].value()];
        }
      }
      const auto [least, most] = std::minmax_element(slots.begin(), slots.end());
      EXPECT_LE(*most - *least, 1u) << "layer " << layer << " column " << c;
    }
  }
}

TEST(PlacementTest, EqualNodesGetEqualSharesOfEveryColumn) {
  const TableLayout layout = Layout(90'000);
  for (const int count : {1, 2, 3, 7, 16}) {
    for (const uint32_t replicas : {1u, 2u, 3u}) {
      if (static_cast<uint32_t>(count) < replicas) continue;
      const auto owners = PlanOwners(layout, replicas, Nodes(count, 1ull << 40), {});
      ASSERT_TRUE(owners.has_value()) << owners.error().ToString();
      const auto bytes = Bytes(layout, *owners, static_cast<size_t>(count), replicas);
      const double share = static_cast<double>(layout.total_bytes()) * replicas / count;
      for (const double b : bytes) EXPECT_LE(b, 1.02 * share);
      ExpectColumnsSpread(layout, *owners, static_cast<size_t>(count), replicas);
    }
  }
}

TEST(PlacementTest, SharesFollowCapacity) {
  const TableLayout layout = Layout(90'000);
  std::vector<PlacementNode> nodes = Nodes(4, 0);
  const std::vector<uint64_t> capacity = {10ull << 30, 20ull << 30, 30ull << 30, 40ull << 30};
  for (size_t i = 0; i < 4; ++i) nodes[i].capacity_bytes = capacity[i];
  const auto owners = PlanOwners(layout, 1, nodes, {});
  ASSERT_TRUE(owners.has_value());
  const auto bytes = Bytes(layout, *owners, 4, 1);
  for (size_t i = 0; i < 4; ++i) {
    const double share =
        static_cast<double>(layout.total_bytes()) * static_cast<double>(i + 1) / 10;
    EXPECT_LE(bytes[i], 1.02 * share);
    EXPECT_GE(bytes[i], 0.98 * share);
  }
}

TEST(PlacementTest, ReplicasAreOnDifferentNodesInDifferentZones) {
  const TableLayout layout = Layout(20'000);
  const auto nodes = Nodes(9, 1ull << 40, 3);
  const auto owners = PlanOwners(layout, 3, nodes, {});
  ASSERT_TRUE(owners.has_value());
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) {
    std::set<std::string> zones;
    for (uint32_t r = 0; r < 3; ++r) zones.insert(nodes[(*owners)[slot * 3 + r].value()].zone);
    ASSERT_EQ(zones.size(), 3u) << "slot " << slot;
  }
}

TEST(PlacementTest, OneZoneStillPutsReplicasOnDifferentNodes) {
  const TableLayout layout = Layout(20'000);
  const auto owners = PlanOwners(layout, 2, Nodes(3, 1ull << 40, 1), {});
  ASSERT_TRUE(owners.has_value());
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) {
    ASSERT_NE((*owners)[slot * 2], (*owners)[slot * 2 + 1]);
  }
}

TEST(PlacementTest, ANodeLargerThanOneCopyGetsOneCopy) {
  const TableLayout layout = Layout(20'000);
  std::vector<PlacementNode> nodes = Nodes(3, 1ull << 34);
  nodes[0].capacity_bytes = 1ull << 44;
  const auto owners = PlanOwners(layout, 2, nodes, {});
  ASSERT_TRUE(owners.has_value());
  const auto bytes = Bytes(layout, *owners, 3, 2);
  EXPECT_EQ(bytes[0], static_cast<double>(layout.total_bytes()));
  EXPECT_NEAR(bytes[1] / bytes[2], 1.0, 0.04);
}

TEST(PlacementTest, EachReplicaIsAskedFirstForItsPartOfTheSlots) {
  const TableLayout layout = Layout(90'000);
  const auto owners = PlanOwners(layout, 2, Nodes(4, 1ull << 40), {});
  ASSERT_TRUE(owners.has_value());
  std::map<uint32_t, double> first;
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) ++first[(*owners)[slot * 2].value()];
  for (const auto& [node, slots] : first) EXPECT_NEAR(slots / (layout.slot_count() / 4.0), 1, 0.1);
}

TEST(PlacementTest, TheSameInputGivesTheSameLayout) {
  const TableLayout layout = Layout(20'000);
  EXPECT_EQ(*PlanOwners(layout, 2, Nodes(5, 1ull << 40), {}),
            *PlanOwners(layout, 2, Nodes(5, 1ull << 40), {}));
}

TEST(PlacementTest, TooLittleMemoryIsRefusedWithTheFigures) {
  const TableLayout layout = Layout(90'000);
  const auto owners = PlanOwners(layout, 1, Nodes(3, 1ull << 20), {});
  ASSERT_FALSE(owners.has_value());
  EXPECT_EQ(owners.error().code(), StatusCode::kResourceExhausted);
  EXPECT_NE(owners.error().message().find(std::to_string(layout.total_bytes())), std::string::npos);
}

using Owners = std::vector<NodeIndex>;

Owners Plan(const TableLayout& layout, uint32_t replicas, const std::vector<PlacementNode>& nodes,
            const Owners& current = {}) {
  auto owners = PlanOwners(layout, replicas, nodes, current);
  EXPECT_TRUE(owners.has_value()) << owners.error().ToString();
  return owners.has_value() ? *std::move(owners) : current;
}

double MovedOverMinimum(const TableLayout& layout, uint32_t replicas,
                        const std::vector<PlacementNode>& nodes, const Owners& from,
                        const Owners& to) {
  return static_cast<double>(MovedBytes(layout, MovesBetween(replicas, from, to))) /
         static_cast<double>(MinimumBytes(layout, replicas, nodes, from));
}

TEST(PlacementTest, PlanningAgainMovesNothing) {
  const TableLayout layout = Layout(20'000);
  const auto nodes = Nodes(5, 1ull << 40, 3);
  const Owners owners = Plan(layout, 2, nodes);
  EXPECT_EQ(Plan(layout, 2, nodes, owners), owners);
}

TEST(PlacementTest, ANewNodeGetsItsShareAndHardlyAnythingElseMoves) {
  const TableLayout layout = Layout(90'000);
  for (const uint32_t replicas : {1u, 2u, 3u}) {
    const Owners before = Plan(layout, replicas, Nodes(7, 1ull << 40));
    const auto nodes = Nodes(8, 1ull << 40);
    const Owners after = Plan(layout, replicas, nodes, before);
    const auto moves = MovesBetween(replicas, before, after);
    const auto to_others = std::count_if(moves.begin(), moves.end(), [](const SlotMove& move) {
      return move.gains != NodeIndex(7);
    });
    EXPECT_LE(to_others, static_cast<ptrdiff_t>(moves.size() / 100));
    EXPECT_NEAR(MovedOverMinimum(layout, replicas, nodes, before, after), 1.0, 0.02);
    ExpectColumnsSpread(layout, after, 8, replicas);
  }
}

TEST(PlacementTest, ANewNodeOfTwiceTheCapacityGetsTwiceTheShare) {
  const TableLayout layout = Layout(90'000);
  auto nodes = Nodes(6, 1ull << 40);
  nodes.push_back({"large", "", 2ull << 40, 0, true});
  const Owners before = Plan(layout, 2, Nodes(6, 1ull << 40));
  const Owners after = Plan(layout, 2, nodes, before);
  const auto bytes = Bytes(layout, after, 7, 2);
  EXPECT_NEAR(bytes[6] / (2.0 * static_cast<double>(layout.total_bytes()) * 2 / 8), 1.0, 0.02);
  EXPECT_LE(MovedOverMinimum(layout, 2, nodes, before, after), 1.02);
}

TEST(PlacementTest, ADrainedNodeLosesAllAndOnlyThatMoves) {
  const TableLayout layout = Layout(90'000);
  for (const uint32_t replicas : {1u, 2u, 3u}) {
    auto nodes = Nodes(8, 1ull << 40);
    const Owners before = Plan(layout, replicas, nodes);
    nodes[3].accepts = false;
    const Owners after = Plan(layout, replicas, nodes, before);
    EXPECT_EQ(Bytes(layout, after, 8, replicas)[3], 0);
    for (const SlotMove& move : MovesBetween(replicas, before, after)) {
      ASSERT_EQ(move.loses, NodeIndex(3));
      ASSERT_NE(move.gains, kNoNode);
    }
  }
}

TEST(PlacementTest, ALostNodesReplicasAreMadeAgainAndTheOthersKeepTheirOrder) {
  const TableLayout layout = Layout(20'000);
  auto nodes = Nodes(6, 1ull << 40);
  Owners before = Plan(layout, 3, nodes);
  for (size_t slot = 0; slot < layout.slot_count(); ++slot) {
    const auto first = before.begin() + static_cast<ptrdiff_t>(slot * 3);
    std::replace(first, first + 3, NodeIndex(2), kNoNode);
    std::stable_partition(first, first + 3, [](NodeIndex owner) { return owner != kNoNode; });
  }
  nodes[2].accepts = false;
  const Owners after = Plan(layout, 3, nodes, before);
  EXPECT_EQ(std::count(after.begin(), after.end(), kNoNode), 0);
  for (size_t i = 0; i < before.size(); ++i) {
    if (before[i] == kNoNode) continue;
    ASSERT_EQ(after[i], before[i]);
  }
}

TEST(PlacementTest, ALostNodeThatComesBackGetsItsShareAgain) {
  const TableLayout layout = Layout(20'000);
  auto nodes = Nodes(6, 1ull << 40);
  const Owners first = Plan(layout, 2, nodes);
  nodes[4].accepts = false;
  const Owners without = Plan(layout, 2, nodes, first);
  nodes[4].accepts = true;
  const Owners again = Plan(layout, 2, nodes, without);
  EXPECT_LE(MovedOverMinimum(layout, 2, nodes, without, again), 1.1);
  EXPECT_EQ(Plan(layout, 2, nodes, again), again);
}

TEST(PlacementTest, ReplicasPartWhenAnotherZoneAppears) {
  const TableLayout layout = Layout(20'000);
  auto nodes = Nodes(4, 1ull << 40, 1);
  const Owners before = Plan(layout, 2, nodes);
  for (int i = 4; i < 8; ++i) nodes.push_back({"m" + std::to_string(i), "b", 1ull << 40, 0, true});
  const Owners after = Plan(layout, 2, nodes, before);
  for (uint32_t slot = 0; slot < layout.slot_count(); ++slot) {
    ASSERT_NE(nodes[after[slot * 2].value()].zone, nodes[after[slot * 2 + 1].value()].zone);
  }
  EXPECT_LE(MovedOverMinimum(layout, 2, nodes, before, after), 1.02);
}

TEST(PlacementTest, ASmallZoneHoldsOneCopyIfItHasTheMemoryElseItsShare) {
  const TableLayout layout = Layout(20'000);
  const uint64_t copy = layout.total_bytes();
  std::vector<PlacementNode> nodes = {
      {"a", "x", 2 * copy, 0, true}, {"b", "x", 2 * copy, 0, true}, {"c", "y", 2 * copy, 0, true}};
  EXPECT_EQ(TargetBytes(layout, 2, nodes), (std::vector<uint64_t>{copy / 2, copy / 2, copy}));
  nodes[2].used_bytes = copy + 1;
  for (const uint64_t bytes : TargetBytes(layout, 2, nodes)) {
    EXPECT_NEAR(static_cast<double>(bytes) / (static_cast<double>(copy) * 2 / 3), 1.0, 1e-6);
  }
  (void)Plan(layout, 2, nodes);
}

TEST(PlacementTest, FewerNodesThanReplicasKeepWhatThereIs) {
  const TableLayout layout = Layout(20'000);
  auto nodes = Nodes(3, 1ull << 40);
  const Owners full = Plan(layout, 2, nodes);
  nodes[0].accepts = false;
  nodes[1].accepts = false;
  // Drained nodes keep the second replica, for want of another node.
  const Owners drained = Plan(layout, 2, nodes, full);
  for (size_t slot = 0; slot < layout.slot_count(); ++slot) {
    const std::set<NodeIndex> there = {drained[slot * 2], drained[slot * 2 + 1]};
    ASSERT_TRUE(there.contains(NodeIndex(2)));
    ASSERT_FALSE(there.contains(kNoNode));
    ASSERT_EQ(there.size(), 2u);
  }
  // Lost ones have nothing to keep.
  Owners lost = full;
  for (NodeIndex& owner : lost) owner = owner == NodeIndex(2) ? owner : kNoNode;
  const Owners repaired = Plan(layout, 2, nodes, lost);
  for (size_t slot = 0; slot < layout.slot_count(); ++slot) {
    ASSERT_EQ(repaired[slot * 2], NodeIndex(2));
    ASSERT_EQ(repaired[slot * 2 + 1], kNoNode);
  }
}

TEST(PlacementTest, OwnersThatFitNoTableAreRefused) {
  const TableLayout layout = Layout(20'000);
  const auto nodes = Nodes(3, 1ull << 40);
  const Owners short_table(layout.slot_count() - 1, NodeIndex(0));
  EXPECT_EQ(PlanOwners(layout, 1, nodes, short_table).error().code(), StatusCode::kInvalidArgument);
  const Owners unknown(layout.slot_count(), NodeIndex(3));
  EXPECT_EQ(PlanOwners(layout, 1, nodes, unknown).error().code(), StatusCode::kInvalidArgument);
}

TEST(PlacementTest, MovesPairWhoGainsWithWhoLoses) {
  const NodeIndex a(0);
  const NodeIndex b(1);
  const NodeIndex c(2);
  const Owners from = {a, b, b, kNoNode, a, c};
  const Owners to = {c, b, b, a, c, a};
  const std::vector<SlotMove> expected = {{SlotIndex(0), c, a}, {SlotIndex(1), a, kNoNode}};
  EXPECT_EQ(MovesBetween(2, from, to), expected);
  EXPECT_EQ(MovesBetween(2, {}, to).size(), 6u);
}

TEST(PlacementTest, FewerNodesThanReplicasIsRefused) {
  const auto owners = PlanOwners(Layout(20'000), 2, Nodes(1, 1ull << 40), {});
  ASSERT_FALSE(owners.has_value());
  EXPECT_EQ(owners.error().code(), StatusCode::kFailedPrecondition);
}

TEST(PlacementTest, AThousandNodesStayWithinTwoPercent) {
  const TableLayout layout = Layout(32'000'000);  // ~94,000 slots
  const auto owners = PlanOwners(layout, 1, Nodes(1000, 1ull << 40), {});
  ASSERT_TRUE(owners.has_value());
  const auto bytes = Bytes(layout, *owners, 1000, 1);
  const double share = static_cast<double>(layout.total_bytes()) / 1000;
  EXPECT_LE(*std::max_element(bytes.begin(), bytes.end()), 1.02 * share);
}

}  // namespace
}  // namespace engram
