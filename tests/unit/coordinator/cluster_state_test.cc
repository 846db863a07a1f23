// Stories: given events, expected effects.
#include "coordinator/cluster_state.h"

#include <algorithm>
#include <map>

#include <gtest/gtest.h>

#include "proto/state.pb.h"
#include "tests/unit/coordinator/cluster_story.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_F(ClusterStory, AVersionIsReadyOnceEveryNodeHasLoadedItsSlots) {
  NodeStarts("a", 11);
  NodeStarts("b", 12);
  const TableVersion version = VersionIsCreated();
  EXPECT_EQ(version, TableVersion(1));
  EXPECT_FALSE(state_->Ready(version));
  EXPECT_EQ(state_->DefaultVersion(), version);  // clients may wait for it
  const Epoch placed = EpochOf(version);

  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_FALSE(state_->Ready(version));
  EXPECT_TRUE(NodeLoads("b", 12).ok());
  EXPECT_TRUE(state_->Ready(version));
  EXPECT_GT(EpochOf(version), placed);  // wakes those who wait
  EXPECT_TRUE(state_->ClusterStatus(now_).versions(0).current());
}

TEST_F(ClusterStory, EverySlotIsAssignedToExactlyItsOwners) {
  for (const char* id : {"a", "b", "c"}) NodeStarts(id, 7);
  const TableVersion version = VersionIsCreated(2);
  const auto map = state_->Map(version);
  std::vector<int> assigned(map->owners.size() / 2, 0);
  for (const char* id : {"a", "b", "c"}) {
    const auto reply = state_->Changes(Alive(id, 7));
    ASSERT_EQ(reply.changed_size(), 1);
    for (const uint32_t slot : reply.changed(0).slots()) ++assigned[slot];
  }
  EXPECT_TRUE(std::all_of(assigned.begin(), assigned.end(), [](int n) { return n == 2; }));
}

TEST_F(ClusterStory, AKnownAssignmentIsNotSentAgain) {
  NodeStarts("a", 11);
  VersionIsCreated();
  proto::HeartbeatRequest message = Alive("a", 11);
  const auto reply = state_->Changes(message);
  ASSERT_EQ(reply.changed_size(), 1);
  message.add_known_versions(reply.changed(0).version());
  message.add_known_assignment_revisions(reply.changed(0).revision());
  EXPECT_EQ(state_->Changes(message).changed_size(), 0);
}

TEST_F(ClusterStory, ASilentNodeIsDownAtANewEpochAndBackWithWhatItHeld) {
  NodeStarts("a", 11);
  NodeStarts("b", 12);
  const TableVersion version = VersionIsCreated();
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(NodeLoads("b", 12).ok());
  const Epoch before = EpochOf(version);
  now_ += milliseconds(2900);
  EXPECT_TRUE(NodeSays(Alive("a", 11)).ok());
  now_ += milliseconds(200);
  Step(TimePassed{});
  EXPECT_EQ(EpochOf(version).value(), before.value() + 1);
  EXPECT_EQ(state_->Map(version)->nodes[1].incarnation, Incarnation(0));
  EXPECT_TRUE(state_->Ready(version));  // it may only be cut off: it keeps what it holds

  EXPECT_TRUE(NodeSays(Alive("b", 12)).ok());
  EXPECT_EQ(state_->Map(version)->nodes[1].incarnation, Incarnation(12));
  EXPECT_EQ(EpochOf(version).value(), before.value() + 2);
  EXPECT_TRUE(state_->Ready(version));
}

TEST_F(ClusterStory, ANewIncarnationHoldsNothingAndGetsItsSlotsAgain) {
  NodeStarts("a", 11);
  NodeStarts("b", 12);
  const TableVersion version = VersionIsCreated();
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(NodeLoads("b", 12).ok());
  const auto owners = state_->Map(version)->owners;
  NodeStarts("b", 99);
  EXPECT_FALSE(state_->Ready(version));
  EXPECT_EQ(state_->Map(version)->owners, owners);
  EXPECT_EQ(NodeSays(Alive("b", 12)).code(), StatusCode::kWrongIncarnation);
  EXPECT_TRUE(NodeLoads("b", 99).ok());
  EXPECT_TRUE(state_->Ready(version));
}

TEST_F(ClusterStory, ASlotLoadedWithOtherContentsIsRefused) {
  NodeStarts("a", 11);
  const TableVersion version = VersionIsCreated();
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(state_->Ready(version));
  NodeStarts("a", 12);
  EXPECT_TRUE(NodeLoads("a", 12, /*digest_salt=*/1).ok());
  EXPECT_FALSE(state_->Ready(version));
  EXPECT_NE(state_->ClusterStatus(now_).nodes(0).error().find("CORRUPT"), std::string::npos);
}

TEST_F(ClusterStory, AnUnknownNodeIsToldToRegister) {
  EXPECT_EQ(NodeSays(Alive("ghost", 1)).code(), StatusCode::kNotFound);
}

// What it says that it knows is kept while its heartbeat is held.
TEST_F(ClusterStory, ANodeKnowsNoMoreVersionsThanThereCanBe) {
  NodeStarts("a", 11);
  proto::HeartbeatRequest message = Alive("a", 11);
  for (uint32_t i = 0; i < kVersionsMax; ++i) {
    message.add_known_versions(1);
    message.add_known_assignment_revisions(1);
  }
  EXPECT_EQ(NodeSays(message), Status());
  message.add_known_versions(1);
  message.add_known_assignment_revisions(1);
  EXPECT_EQ(NodeSays(message).code(), StatusCode::kMalformed);
}

TEST_F(ClusterStory, ReadySlotsThatAreNotItsOwnAreIgnored) {
  NodeStarts("a", 11);
  NodeStarts("b", 12);
  const TableVersion version = VersionIsCreated();
  proto::HeartbeatRequest message = Alive("a", 11);
  proto::HeldVersion* held = message.add_held();
  held->set_version(version.value());
  for (uint32_t slot = 0; slot < 100'000; slot += 1) {
    held->add_ready_slots(slot);
    held->add_ready_digests(1);
  }
  EXPECT_TRUE(NodeSays(message).ok());
  EXPECT_FALSE(state_->Ready(version));
  EXPECT_EQ(state_->ClusterStatus(now_).nodes(0).ready_slots(),
            state_->ClusterStatus(now_).nodes(0).assigned_slots());
}

TEST_F(ClusterStory, ARestartKeepsVersionsMapsAndDigestsAtAHigherEpoch) {
  NodeStarts("a", 11);
  NodeStarts("b", 12);
  const TableVersion version = VersionIsCreated(2);
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(NodeLoads("b", 12).ok());
  const ShardMap before = *state_->Map(version);
  CoordinatorRestarts();
  const ShardMap after = *state_->Map(version);
  EXPECT_GT(after.epoch, before.epoch);
  EXPECT_EQ(after.owners, before.owners);
  EXPECT_EQ(after.nodes, before.nodes);
  EXPECT_EQ(state_->DefaultVersion(), version);
  EXPECT_FALSE(state_->Ready(version));  // the nodes tell again what they hold
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(NodeLoads("b", 12).ok());
  EXPECT_TRUE(state_->Ready(version));
  NodeStarts("a", 13);
  EXPECT_TRUE(NodeLoads("a", 13, /*digest_salt=*/5).ok());
  EXPECT_NE(state_->ClusterStatus(now_).nodes(0).error(), "");  // digests were remembered
  EXPECT_EQ(VersionIsCreated(), TableVersion(2));               // numbers are not used again
}

TEST_F(ClusterStory, VersionsNeedTheNodesTheyExpect) {
  NodeStarts("a", 11);
  VersionRequested request;
  request.spec.hash.max_ngram_size = 2;
  request.spec.hash.head_count = 1;
  request.spec.hash.base_sizes = {500};
  request.spec.hash.layer_ids = {1};
  request.spec.hash.compressed_vocab_size = 100;
  request.spec.row_values = 32;
  request.expect_nodes = 2;
  EXPECT_EQ(Step(request).status.code(), StatusCode::kFailedPrecondition);
  EXPECT_EQ(state_->DefaultVersion(), TableVersion(0));
}

TEST_F(ClusterStory, DamagedRecordsAreNamed) {
  NodeStarts("a", 11);
  VersionIsCreated();
  ClusterState other(ClusterState::Options{}, 2);
  const auto effects = other.Restore({{"version/1", "rubbish"}}, now_);
  ASSERT_FALSE(effects.has_value());
  EXPECT_EQ(effects.error().code(), StatusCode::kCorrupt);
  EXPECT_NE(effects.error().message().find("version/1"), std::string::npos);
}

TEST_F(ClusterStory, ANodeThatNoMapCouldDescribeIsRefused) {
  proto::NodeDescription node;
  node.set_id("a");
  node.set_incarnation(11);
  node.set_data_address("127.0.0.1:7100");
  node.set_capacity_bytes(1ull << 40);
  node.set_zone(std::string(kNodeTextBytesMax + 1, 'z'));
  EXPECT_EQ(Step(NodeRegistered{node}).status.code(), StatusCode::kInvalidArgument);
  node.set_zone(std::string(kNodeTextBytesMax, 'z'));
  EXPECT_TRUE(Step(NodeRegistered{node}).status.ok());
  VersionIsCreated();
  CoordinatorRestarts();
}

TEST_F(ClusterStory, RecordsThatDoNotFitTogetherAreRefused) {
  NodeStarts("a", 11);
  VersionIsCreated();
  const auto refused = [&](const std::string& key, const std::string& value) {
    auto disk = disk_;
    disk[key] = value;
    std::vector<MetadataRecord> records;
    for (const auto& [name, bytes] : disk) records.push_back({name, bytes});
    ClusterState other(ClusterState::Options{}, 2);
    const auto restored = other.Restore(records, now_);
    return !restored.has_value() && restored.error().code() == StatusCode::kCorrupt;
  };
  EXPECT_FALSE(refused("cluster", disk_["cluster"]));
  EXPECT_TRUE(refused("cluster", ""));  // would give version 1 again
  proto::ClusterRecord cluster;
  cluster.set_next_version(2);
  cluster.set_current_version(7);
  EXPECT_TRUE(refused("cluster", cluster.SerializeAsString()));
  EXPECT_TRUE(refused("version/2", disk_["version/1"]));
  EXPECT_TRUE(refused("node/b", disk_["node/a"]));
  // The last chunk that 64 bits can number: begins below zero if nobody looks.
  proto::DigestsRecord digests;
  digests.mutable_digests()->Resize(static_cast<int>(kDigestsPerRecord), 1);
  EXPECT_TRUE(refused("version/1/digests/4503599627370495", digests.SerializeAsString()));
}

TEST_F(ClusterStory, ALongErrorOfANodeIsCutBetweenCharacters) {
  NodeStarts("a", 11);
  const TableVersion version = VersionIsCreated();
  proto::HeartbeatRequest message = Alive("a", 11);
  proto::HeldVersion* held = message.add_held();
  held->set_version(version.value());
  held->set_error(proto::IO);
  std::string text = "x";
  while (text.size() < 2000) text += "\xc3\xa9";
  held->set_error_message(text);
  EXPECT_TRUE(NodeSays(message).ok());
  proto::GetStatusReply reply;
  EXPECT_TRUE(reply.ParseFromString(state_->ClusterStatus(now_).SerializeAsString()));
}

TEST_F(ClusterStory, AReportOfDamageIsCounted) {
  NodeStarts("a", 11);
  const TableVersion version = VersionIsCreated();
  EXPECT_TRUE(Step(SlotReported{version, SlotIndex(0), "a", Incarnation(11)}).status.ok());
  EXPECT_EQ(Step(SlotReported{version, SlotIndex(1u << 30), "a", Incarnation(11)}).status.code(),
            StatusCode::kNotFound);
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).damaged_slot_reports(), 1u);
}

TEST_F(ClusterStory, AReportOfWhatNoNodeServesIsNotNoted) {
  NodeStarts("a", 11);
  NodeStarts("b", 22);
  const TableVersion version = VersionIsCreated();
  NodeStarts("c", 33);  // holds nothing of it
  const auto owner = state_->Map(version)->Replicas(SlotIndex(0))[0];
  const bool on_a = state_->Map(version)->nodes[owner.value()].id == "a";
  const std::string holder = on_a ? "a" : "b";
  const std::string other = on_a ? "b" : "a";
  const uint64_t incarnation = on_a ? 11 : 22;
  const auto report = [&](const std::string& node, uint64_t of, TableVersion in) {
    const ClusterEffects effects = Step(SlotReported{in, SlotIndex(0), node, Incarnation(of)});
    EXPECT_TRUE(effects.notes.empty()) << node;
    EXPECT_FALSE(effects.wake) << node;
    EXPECT_TRUE(effects.records.empty()) << node;
    return effects.status.code();
  };
  EXPECT_EQ(report("", 0, version), StatusCode::kNotFound);
  EXPECT_EQ(report("ghost\nnode a is lost", 11, version), StatusCode::kNotFound);
  EXPECT_EQ(report(std::string(100'000, 'a'), 11, version), StatusCode::kNotFound);
  EXPECT_EQ(report("c", 33, version), StatusCode::kNotFound);
  EXPECT_EQ(report(other, on_a ? 22 : 11, version), StatusCode::kNotFound);
  EXPECT_EQ(report(holder, incarnation, TableVersion(9)), StatusCode::kNotFound);
  // Its process is another now: as good as repaired.
  EXPECT_EQ(report(holder, incarnation + 1, version), StatusCode::kOk);
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).damaged_slot_reports(), 0u);
  EXPECT_EQ(
      Step(SlotReported{version, SlotIndex(0), holder, Incarnation(incarnation)}).notes.size(), 1u);
}

TEST_F(ClusterStory, TheSameSlotIsNoEventAgainForAWhileWhoeverReportsIt) {
  NodeStarts("a", 11);
  const TableVersion version = VersionIsCreated();
  ASSERT_TRUE(NodeLoads("a", 11).ok());
  const auto report = [&](const std::string& reader) {
    const ClusterEffects effects =
        Step(SlotReported{version, SlotIndex(5), "a", Incarnation(11), reader});
    EXPECT_TRUE(effects.status.ok()) << effects.status.ToString();
    return effects.notes.size();
  };
  EXPECT_EQ(report("w0"), 1u);
  EXPECT_EQ(report("w0"), 0u);
  EXPECT_EQ(report("w1"), 0u);
  // The node was told and repaired it; reads that were under way are still reported.
  ASSERT_TRUE(NodeLoads("a", 11).ok());
  const uint64_t revision = state_->Changes(Alive("a", 11)).changed(0).revision();
  EXPECT_EQ(report("w2"), 0u);
  EXPECT_EQ(state_->Changes(Alive("a", 11)).changed(0).revision(), revision);
  now_ += kSlotReportAgain;
  EXPECT_EQ(report("w0"), 1u);  // damaged again
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).damaged_slot_reports(), 2u);
}

TEST_F(ClusterStory, OneReaderReportsSoManySlotsAndLeavesRoomForOthers) {
  NodeStarts("a", 11);
  VersionRequested request = SmallVersion(1);
  request.spec.hash.base_sizes = {300'000, 300'000};  // some hundred slots and more
  const TableVersion version = Step(request).created;
  const uint32_t slots = state_->ClusterStatus(now_).versions(0).slot_count();
  ASSERT_GT(slots, kSlotReportsPerReader + 10);
  const auto report = [&](uint32_t slot, const std::string& reader) {
    return Step(SlotReported{version, SlotIndex(slot), "a", Incarnation(11), reader});
  };
  size_t notes = 0;
  for (uint32_t slot = 0; slot < slots; ++slot) notes += report(slot, "eve").notes.size();
  EXPECT_EQ(notes, kSlotReportsPerReader);
  const Status refused = report(slots - 1, "eve").status;
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("later"), std::string::npos);
  EXPECT_EQ(report(slots - 1, "ann").notes.size(), 1u);
  now_ += kSlotReportAgain;
  EXPECT_EQ(report(slots - 2, "eve").notes.size(), 1u);
}

TEST_F(ClusterStory, ManyReadersTogetherReportSoManySlots) {
  NodeStarts("a", 11);
  NodeStarts("b", 22);
  VersionRequested request = SmallVersion(2);
  request.spec.hash.base_sizes = {3'000'000, 3'000'000};
  const TableVersion version = Step(request).created;
  const uint32_t slots = state_->ClusterStatus(now_).versions(0).slot_count();
  ASSERT_GT(2 * slots, kSlotReportsOfAll + 10);
  size_t notes = 0;
  for (uint32_t slot = 0; slot < slots; ++slot) {
    const std::string reader = "eve" + std::to_string(slot);
    for (const auto& [node, incarnation] : {std::pair("a", 11), {"b", 22}}) {
      notes += Step(SlotReported{version, SlotIndex(slot), node,
                                 Incarnation(static_cast<uint64_t>(incarnation)), reader})
                   .notes.size();
    }
  }
  EXPECT_EQ(notes, kSlotReportsOfAll);
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).damaged_slot_reports(), kSlotReportsOfAll);
}

// A coordinator that follows makes its maps from the records alone. Were one other than the map
// that was published at its epoch, clients that have it would never be corrected.
TEST_F(ClusterStory, AFollowersMapsAreTheVeryOnesThatWerePublished) {
  const auto expect_same = [&](const char* after) {
    std::vector<MetadataRecord> records;
    for (const auto& [key, value] : disk_) records.push_back({key, value});
    ClusterState follower(ClusterState::Options{}, 0);
    const Status restored = follower.RestoreToRead(records, now_);
    ASSERT_TRUE(restored.ok()) << after << ": " << restored.ToString();
    EXPECT_EQ(follower.DefaultVersion(), state_->DefaultVersion()) << after;
    for (const TableVersion version : {TableVersion(1), TableVersion(2)}) {
      const auto published = state_->Map(version);
      const auto followed = follower.Map(version);
      ASSERT_EQ(published == nullptr, followed == nullptr) << after;
      if (published == nullptr) continue;
      EXPECT_EQ(*published, *followed) << after;
    }
  };
  NodeStarts("a", 11);
  NodeStarts("b", 22);
  expect_same("two nodes registered");
  const TableVersion version = VersionIsCreated(2);
  expect_same("a version was created");
  EXPECT_TRUE(NodeLoads("a", 11).ok());
  EXPECT_TRUE(NodeLoads("b", 22).ok());
  ASSERT_TRUE(state_->Ready(version));
  expect_same("it is ready");
  now_ += seconds(2);
  EXPECT_TRUE(NodeSays(Alive("a", 11)).ok());
  now_ += seconds(2);
  Step(TimePassed{});
  EXPECT_EQ(state_->Map(version)->nodes[1].incarnation, Incarnation(0));
  expect_same("a node is down");
  NodeStarts("b", 23);
  expect_same("it started again");
  NodeStarts("c", 33);
  VersionIsCreated(1);
  expect_same("a node joined and another version was created");
  CoordinatorRestarts();
  expect_same("another coordinator took over");
}

}  // namespace
}  // namespace engram
