// A version made where there is no memory for it and the others: in place of one replica of each
// slot of the current one.
#include <gmock/gmock.h>

#include "tests/unit/coordinator/cluster_story.h"

namespace engram {
namespace {

using testing::HasSubstr;
using testing::Not;

class ClusterReplicasTest : public ClusterStory {
 protected:
  static uint64_t TableBytes() { return TableLayout::Create(SmallVersion(1).spec)->total_bytes(); }
  // Three nodes with memory for so many tables together, all of version 1 ready and current.
  void Start(double tables, uint32_t replicas) {
    capacity_ = static_cast<uint64_t>(tables * static_cast<double>(TableBytes()) / 3);
    for (const char* id : {"a", "b", "c"}) NodeStarts(id, 11, capacity_);
    EXPECT_EQ(VersionIsCreated(replicas), kOld);
    AllLoad();
    ASSERT_EQ(state_->current(), kOld);
  }
  void AllLoad() {
    for (const char* id : {"a", "b", "c"}) EXPECT_TRUE(NodeLoads(id, 11).ok());
  }
  // Owners of a slot, the most and the fewest of any.
  std::pair<uint32_t, uint32_t> OwnersOfASlot(TableVersion version) {
    const auto map = state_->Map(version);
    uint32_t most = 0;
    uint32_t fewest = kReplicasMax;
    for (uint32_t slot = 0; slot < map->owners.size() / map->replica_count; ++slot) {
      uint32_t there = 0;
      for (const NodeIndex owner : map->Replicas(SlotIndex(slot))) there += owner != kNoNode;
      most = std::max(most, there);
      fewest = std::min(fewest, there);
    }
    return {fewest, most};
  }
  proto::VersionStatus StatusOf(TableVersion version) {
    const proto::GetStatusReply cluster = state_->ClusterStatus(now_);
    for (const auto& status : cluster.versions()) {
      if (status.version() == version.value()) return status;
    }
    ADD_FAILURE() << "no such version";
    return {};
  }
  void ExpectNobodyIsOverfull() {
    const proto::GetStatusReply cluster = state_->ClusterStatus(now_);
    for (const auto& node : cluster.nodes()) {
      EXPECT_LE(node.assigned_bytes() + node.incoming_bytes(), capacity_) << node.id();
    }
  }

  static constexpr TableVersion kOld{1};
  static constexpr TableVersion kNew{2};
  uint64_t capacity_ = 0;
};

TEST_F(ClusterReplicasTest, WithoutMemoryForBothNothingChangesAndTheWayIsNamed) {
  Start(2.5, 2);
  const auto before = disk_;
  const ClusterEffects refused = Step(SmallVersion(2));
  EXPECT_EQ(refused.status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status.message(), HasSubstr("bytes and has"));
  EXPECT_THAT(refused.status.message(), HasSubstr("--take-replica"));
  VersionRequested asked = SmallVersion(2);
  asked.take_replica = true;
  asked.dry_run = true;
  const ClusterEffects would = Step(asked);
  EXPECT_TRUE(would.status.ok()) << would.status.ToString();
  EXPECT_EQ(would.created, TableVersion());
  EXPECT_EQ(would.taken_from, kOld);
  EXPECT_EQ(would.taken_from_keeps, 1u);
  EXPECT_EQ(would.taken_bytes, TableBytes());
  EXPECT_EQ(would.replicas_at_first, 1u);
  EXPECT_EQ(disk_, before);
  EXPECT_EQ(OwnersOfASlot(kOld), std::pair(2u, 2u));
}

TEST_F(ClusterReplicasTest,
       TheNewVersionTakesThePlaceOfOneReplicaAndGetsTheOtherOnceTheOldIsDropped) {
  Start(2.5, 2);
  VersionRequested request = SmallVersion(2);
  request.take_replica = true;
  const Epoch before = EpochOf(kOld);
  const ClusterEffects made = Step(request);
  ASSERT_TRUE(made.status.ok()) << made.status.ToString();
  EXPECT_EQ(made.created, kNew);
  EXPECT_GT(EpochOf(kOld), before);
  EXPECT_TRUE(state_->Ready(kOld));
  EXPECT_EQ(OwnersOfASlot(kOld), std::pair(1u, 1u));
  EXPECT_EQ(OwnersOfASlot(kNew), std::pair(1u, 1u));
  EXPECT_EQ(StatusOf(kOld).replicas_missing(), 0u);
  EXPECT_EQ(StatusOf(kOld).replicas_wanted(), 1u);
  EXPECT_EQ(StatusOf(kOld).replica_count(), 2u);
  EXPECT_EQ(StatusOf(kOld).moves_pending(), 0u);
  ExpectNobodyIsOverfull();
  CoordinatorRestarts();
  AllLoad();
  EXPECT_TRUE(state_->Ready(kOld));
  EXPECT_TRUE(state_->Ready(kNew));
  EXPECT_EQ(OwnersOfASlot(kOld), std::pair(1u, 1u));

  ASSERT_TRUE(Step(VersionSwitched{kNew}).status.ok());
  ASSERT_TRUE(Step(VersionDropped{kOld}).status.ok());
  EXPECT_EQ(StatusOf(kNew).replicas_wanted(), 2u);
  EXPECT_EQ(StatusOf(kNew).replicas_missing(), state_->Map(kNew)->owners.size() / 2);
  for (int round = 0; round < 100 && StatusOf(kNew).replicas_missing() > 0; ++round) AllLoad();
  EXPECT_EQ(OwnersOfASlot(kNew), std::pair(2u, 2u));
  ExpectNobodyIsOverfull();
}

TEST_F(ClusterReplicasTest, WhereThereIsMemoryForBothNothingIsTaken) {
  Start(4.5, 2);
  VersionRequested request = SmallVersion(2);
  request.take_replica = true;
  const ClusterEffects made = Step(request);
  ASSERT_TRUE(made.status.ok()) << made.status.ToString();
  EXPECT_EQ(made.taken_from, TableVersion());
  EXPECT_EQ(made.replicas_at_first, 2u);
  EXPECT_EQ(OwnersOfASlot(kOld), std::pair(2u, 2u));
}

TEST_F(ClusterReplicasTest, TheOnlyReplicaIsNeverTaken) {
  Start(1.5, 1);
  VersionRequested request = SmallVersion(1);
  request.take_replica = true;
  const ClusterEffects refused = Step(request);
  EXPECT_EQ(refused.status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.status.message(), Not(HasSubstr("--take-replica")));
  EXPECT_EQ(OwnersOfASlot(kOld), std::pair(1u, 1u));
}

TEST_F(ClusterReplicasTest, ReplicasThatCanBeReadStay) {
  Start(3, 2);
  // b's process started again and has loaded nothing yet.
  NodeStarts("b", 12, capacity_);
  ASSERT_TRUE(state_->Ready(kOld));
  VersionRequested request = SmallVersion(2);
  request.take_replica = true;
  const ClusterEffects made = Step(request);
  ASSERT_TRUE(made.status.ok()) << made.status.ToString();
  EXPECT_TRUE(state_->Ready(kOld));
}

TEST_F(ClusterReplicasTest, ReplicasComeBackWhenANodeJoins) {
  Start(2.5, 2);
  VersionRequested request = SmallVersion(2);
  request.take_replica = true;
  ASSERT_TRUE(Step(request).status.ok());
  AllLoad();
  NodeStarts("d", 11, 4 * TableBytes());
  EXPECT_EQ(StatusOf(kOld).replicas_wanted(), 2u);
}

}  // namespace
}  // namespace engram
