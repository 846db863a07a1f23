#include "coordinator/desired_nodes.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

constexpr uint64_t kGiB = uint64_t{1} << 30;

void AddNode(proto::GetStatusReply* status, uint64_t capacity_bytes, bool draining = false,
             bool up = true) {
  auto& node = *status->add_nodes();
  node.set_capacity_bytes(capacity_bytes);
  node.set_draining(draining);
  node.set_up(up);
}
// `wanted` replicas now of `asked`, each of `bytes`.
void AddVersion(proto::GetStatusReply* status, uint64_t bytes, uint32_t asked, uint32_t wanted) {
  auto& version = *status->add_versions();
  version.set_total_bytes(bytes * wanted);
  version.set_replica_count(asked);
  version.set_replicas_wanted(wanted);
}

TEST(DesiredMemoryNodesTest, IsZeroWhereNothingIsKnown) {
  proto::GetStatusReply status;
  EXPECT_EQ(DesiredMemoryNodes(status), 0u);
  AddNode(&status, 10 * kGiB);
  EXPECT_EQ(DesiredMemoryNodes(status), 0u);
  proto::GetStatusReply no_nodes;
  AddVersion(&no_nodes, kGiB, 2, 2);
  EXPECT_EQ(DesiredMemoryNodes(no_nodes), 0u);
}

TEST(DesiredMemoryNodesTest, OneReplicaNeedsWhatHoldsItNinetyPercentFull) {
  proto::GetStatusReply status;
  AddNode(&status, 10 * kGiB);
  AddVersion(&status, 18 * kGiB, 1, 1);
  EXPECT_EQ(DesiredMemoryNodes(status), 2u);
  AddVersion(&status, 1, 1, 1);  // a byte more than 90 %
  EXPECT_EQ(DesiredMemoryNodes(status), 3u);
}

TEST(DesiredMemoryNodesTest, SeveralReplicasOutliveALostNode) {
  proto::GetStatusReply status;
  for (int i = 0; i < 3; ++i) AddNode(&status, 10 * kGiB);
  AddVersion(&status, 9 * kGiB, 2, 2);
  EXPECT_EQ(DesiredMemoryNodes(status), 3u);
  proto::GetStatusReply tiny;
  AddNode(&tiny, 10 * kGiB);
  AddVersion(&tiny, 1024, 3, 3);
  EXPECT_EQ(DesiredMemoryNodes(tiny), 4u);
}

TEST(DesiredMemoryNodesTest, CountsReplicasThatAreGivenUpWhileMemoryIsShort) {
  proto::GetStatusReply status;
  AddNode(&status, 10 * kGiB);
  AddVersion(&status, 9 * kGiB, 2, 1);
  AddVersion(&status, 9 * kGiB, 2, 1);
  EXPECT_EQ(DesiredMemoryNodes(status), 5u);
}

TEST(DesiredMemoryNodesTest, TakesTheMedianOfNodesThatTakeSlots) {
  proto::GetStatusReply status;
  AddNode(&status, 1 * kGiB, /*draining=*/true);
  AddNode(&status, 1 * kGiB, /*draining=*/false, /*up=*/false);
  AddNode(&status, 100 * kGiB);
  AddNode(&status, 10 * kGiB);
  AddNode(&status, 10 * kGiB);
  AddVersion(&status, 27 * kGiB, 1, 1);
  EXPECT_EQ(DesiredMemoryNodes(status), 3u);
}

TEST(DesiredMemoryNodesTest, FallsBackToNodesThatAreDown) {
  proto::GetStatusReply status;
  AddNode(&status, 10 * kGiB, false, /*up=*/false);
  AddVersion(&status, 9 * kGiB, 1, 1);
  EXPECT_EQ(DesiredMemoryNodes(status), 1u);
}

}  // namespace
}  // namespace engram
