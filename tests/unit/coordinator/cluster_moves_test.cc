// Stories of slots that move: nodes join, are drained, are lost, and versions follow each other.
#include <algorithm>
#include <set>

#include <gmock/gmock.h>

#include "tests/unit/coordinator/cluster_story.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class MoveStory : public ClusterStory {
 protected:
  // Every node does what it is told until nothing more moves. Returns the rounds that took.
  int EverybodyObeys(const std::vector<std::pair<std::string, uint64_t>>& nodes) {
    for (int round = 0; round < 1000; ++round) {
      const uint32_t before = Pending();
      for (const auto& [id, incarnation] : nodes) EXPECT_TRUE(NodeLoads(id, incarnation).ok());
      if (before == 0 && Pending() == 0) return round;
    }
    ADD_FAILURE() << "the moves never end";
    return -1;
  }
  uint32_t Pending() {
    uint32_t pending = 0;
    const proto::GetStatusReply status = state_->ClusterStatus(now_);
    for (const auto& version : status.versions()) {
      pending += version.moves_pending();
    }
    return pending;
  }
  void TimePassesFor(milliseconds total,
                     const std::vector<std::pair<std::string, uint64_t>>& alive) {
    for (milliseconds passed{0}; passed < total; passed += milliseconds(500)) {
      now_ += milliseconds(500);
      for (const auto& [id, incarnation] : alive)
        EXPECT_TRUE(NodeSays(Alive(id, incarnation)).ok());
      Step(TimePassed{});
    }
  }
  uint64_t BytesOf(const std::string& id) { return NodeOf(id).assigned_bytes(); }
  proto::NodeStatus NodeOf(const std::string& id) {
    const proto::GetStatusReply status = state_->ClusterStatus(now_);
    for (const auto& node : status.nodes()) {
      if (node.id() == id) return node;
    }
    return {};
  }
};

TEST_F(MoveStory, ANewNodeIsFilledUntilLoadIsEven) {
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated();
  EverybodyObeys({{"a", 1}, {"b", 2}});
  const uint64_t total = BytesOf("a") + BytesOf("b");
  NodeStarts("c", 3);
  EXPECT_GT(Pending(), 0u);
  EXPECT_EQ(BytesOf("c"), 0u);  // nothing is its own before it has it
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}});
  EXPECT_TRUE(state_->Ready(version));
  for (const char* id : {"a", "b", "c"}) {
    EXPECT_LE(static_cast<double>(BytesOf(id)), 1.05 * static_cast<double>(total) / 3) << id;
  }
  const auto status = state_->ClusterStatus(now_).versions(0);
  EXPECT_LE(static_cast<double>(status.move_bytes_done()), 1.1 * static_cast<double>(total) / 3);
}

TEST_F(MoveStory, AnOwnerIsReplacedOnlyWhenTheNewOneHasTheSlot) {
  NodeStarts("a", 1);
  const TableVersion version = VersionIsCreated();
  EverybodyObeys({{"a", 1}});
  NodeStarts("b", 2);
  const auto before = state_->Map(version);
  const proto::SlotAssignment told = AssignmentOf("b", 2);
  ASSERT_GE(told.slots_size(), 2);
  EXPECT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).id(), "a");
  EXPECT_EQ(told.slot_sources(0), 0u);
  EXPECT_EQ(state_->Map(version)->owners, before->owners);

  // It has the first slot of those it was told, and one that it was not told.
  proto::HeartbeatRequest message = Alive("b", 2);
  proto::HeldVersion* held = message.add_held();
  held->set_version(version.value());
  held->set_assignment_revision(told.revision());
  const std::set<uint32_t> told_slots(told.slots().begin(), told.slots().end());
  uint32_t other = 0;
  while (told_slots.contains(other)) ++other;
  for (const uint32_t slot : {told.slots(0), other}) {
    held->add_ready_slots(slot);
    held->add_ready_digests(1000 + slot);
  }
  EXPECT_TRUE(NodeSays(message).ok());
  const auto after = state_->Map(version);
  EXPECT_EQ(after->epoch.value(), before->epoch.value() + 1);
  EXPECT_EQ(after->nodes[after->owners[told.slots(0)].value()].id, "b");
  EXPECT_EQ(after->owners[other], before->owners[other]);
  const proto::SlotAssignment old_owner = AssignmentOf("a", 1);
  EXPECT_EQ(std::count(old_owner.slots().begin(), old_owner.slots().end(), told.slots(0)), 0);
  EXPECT_GE(old_owner.newest_epoch(), after->epoch.value());  // from when it may let go
}

TEST_F(MoveStory, ASlotWithOtherContentsIsNotTakenFromItsOwner) {
  NodeStarts("a", 1);
  const TableVersion version = VersionIsCreated();
  EverybodyObeys({{"a", 1}});
  NodeStarts("b", 2);
  const auto before = state_->Map(version)->owners;
  EXPECT_TRUE(NodeLoads("b", 2, /*digest_salt=*/7).ok());
  EXPECT_EQ(state_->Map(version)->owners, before);
  EXPECT_NE(NodeOf("b").error().find("CORRUPT"), std::string::npos);
}

TEST_F(MoveStory, ADrainedNodeLosesItsSlotsAndMayComeBack) {
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  const TableVersion version = VersionIsCreated(2);
  const std::vector<std::pair<std::string, uint64_t>> all = {{"a", 1}, {"b", 2}, {"c", 3}};
  EverybodyObeys(all);
  EXPECT_TRUE(Step(NodeDrained{"b"}).status.ok());
  EXPECT_TRUE(Step(NodeDrained{"b"}).status.ok());  // again: no change
  EXPECT_TRUE(NodeOf("b").draining());
  EverybodyObeys(all);
  EXPECT_EQ(NodeOf("b").assigned_slots(), 0u);
  EXPECT_TRUE(state_->Ready(version));
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).replicas_missing(), 0u);
  EXPECT_TRUE(Step(NodeDrained{"b", /*undo=*/true}).status.ok());
  EverybodyObeys(all);
  EXPECT_GT(NodeOf("b").assigned_slots(), 0u);
  EXPECT_EQ(Step(NodeDrained{"ghost"}).status.code(), StatusCode::kNotFound);
}

TEST_F(MoveStory, ACancelledDrainMovesNothingMore) {
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  VersionIsCreated();
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}});
  Step(NodeDrained{"b"});
  EXPECT_GT(Pending(), 0u);
  Step(NodeDrained{"b", /*undo=*/true});
  EXPECT_EQ(Pending(), 0u);
  EXPECT_EQ(AssignmentOf("a", 1).slots_size(), static_cast<int>(NodeOf("a").assigned_slots()));
}

TEST_F(MoveStory, ALostNodesSlotsAreCopiedFromTheSurvivorsAfterTheGraceTime) {
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}, {"d", 4}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  const TableVersion version = VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}});
  const std::vector<std::pair<std::string, uint64_t>> alive = {{"a", 1}, {"b", 2}, {"c", 3}};
  TimePassesFor(seconds(50), alive);
  EXPECT_FALSE(NodeOf("d").up());
  EXPECT_EQ(Pending(), 0u);  // it may come back
  TimePassesFor(seconds(12), alive);
  EXPECT_TRUE(NodeOf("d").lost());
  EXPECT_GT(state_->ClusterStatus(now_).versions(0).replicas_missing(), 0u);
  const proto::SlotAssignment told = AssignmentOf("a", 1);
  std::set<uint32_t> repairs;
  for (int i = 0; i < told.slots_size(); ++i) {
    if (told.slot_sources(i) == 0xffffffffu || told.slot_ranks(i) != 1) continue;
    EXPECT_NE(told.sources(static_cast<int>(told.slot_sources(i))).id(), "d");
    repairs.insert(told.slots(i));
  }
  EXPECT_FALSE(repairs.empty());
  EverybodyObeys(alive);
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).replicas_missing(), 0u);
  EXPECT_EQ(NodeOf("d").assigned_slots(), 0u);
  EXPECT_TRUE(Step(NodeRemoved{"d"}).status.ok());
  EXPECT_EQ(state_->ClusterStatus(now_).nodes_size(), 3);
  EXPECT_TRUE(state_->Map(version)
                  ->Validate(static_cast<uint32_t>(state_->Map(version)->owners.size() / 2))
                  .ok());
  CoordinatorRestarts();
  EXPECT_EQ(state_->ClusterStatus(now_).nodes_size(), 3);
}

TEST_F(MoveStory, ALostNodeThatWasOnlyCutOffKeepsWhatItStillOwns) {
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}, {"d", 4}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}, {"d", 4}});
  TimePassesFor(seconds(62), {{"a", 1}, {"b", 2}, {"c", 3}});
  ASSERT_GT(Pending(), 0u);
  EXPECT_TRUE(NodeSays(Alive("d", 4)).ok());
  EXPECT_EQ(Pending(), 0u);
  EXPECT_EQ(NodeOf("d").ready_slots(), NodeOf("d").assigned_slots());
  EXPECT_EQ(state_->ClusterStatus(now_).versions(0).replicas_missing(), 0u);
}

TEST_F(MoveStory, WithoutASurvivorSlotsComeFromTheCheckpointFirst) {
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated();
  EverybodyObeys({{"a", 1}, {"b", 2}});
  TimePassesFor(seconds(70), {{"a", 1}});
  const proto::SlotAssignment told = AssignmentOf("a", 1);
  int from_checkpoint = 0;
  for (int i = 0; i < told.slots_size(); ++i) {
    if (told.slot_ranks(i) != 0) continue;
    EXPECT_EQ(told.slot_sources(i), 0xffffffffu);
    ++from_checkpoint;
  }
  EXPECT_GT(from_checkpoint, 0);
  EverybodyObeys({{"a", 1}});
  EXPECT_TRUE(state_->Ready(version));
}

TEST_F(MoveStory, ARestartedNodeIsFilledFromItsReplicas) {
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}});
  NodeStarts("b", 9);
  EXPECT_TRUE(state_->Ready(version));  // a has every slot
  const proto::SlotAssignment told = AssignmentOf("b", 9);
  ASSERT_EQ(told.sources_size(), 1);
  EXPECT_EQ(told.sources(0).id(), "a");
  EXPECT_EQ(std::count(told.slot_sources().begin(), told.slot_sources().end(), 0u),
            told.slots_size());
}

TEST_F(MoveStory, ARestartedCoordinatorGoesOnWithTheMoves) {
  ClusterState::Options options;
  options.incoming_slots_max = 3;
  state_ = std::make_unique<ClusterState>(options, 1);
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated();
  EverybodyObeys({{"a", 1}, {"b", 2}});
  NodeStarts("c", 3);
  const uint32_t all = Pending();
  EXPECT_TRUE(NodeLoads("c", 3).ok());
  EXPECT_EQ(Pending(), all - 3);  // no more than that at a time
  const uint64_t revision = AssignmentOf("c", 3).revision();
  CoordinatorRestarts();
  EXPECT_EQ(Pending(), all - 3);
  EXPECT_NE(AssignmentOf("c", 3).revision(), revision);  // told anew, whatever it knows
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}});
  EXPECT_TRUE(state_->Ready(version));
  EXPECT_GT(NodeOf("c").assigned_slots(), all / 2);
}

TEST_F(MoveStory, RepairsDoNotWaitForBalance) {
  ClusterState::Options options;
  options.incoming_slots_max = 2;
  state_ = std::make_unique<ClusterState>(options, 1);
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}});
  NodeStarts("d", 4);  // balance: two slots at a time
  proto::SlotAssignment told = AssignmentOf("d", 4);
  EXPECT_EQ(told.slots_size(), 2);
  TimePassesFor(seconds(70), {{"a", 1}, {"b", 2}, {"d", 4}});
  told = AssignmentOf("d", 4);
  EXPECT_EQ(std::count(told.slot_ranks().begin(), told.slot_ranks().end(), 1u), 2);
}

TEST_F(MoveStory, VersionsAreSwitchedRolledBackAndDropped) {
  NodeStarts("a", 1);
  const TableVersion first = VersionIsCreated();
  EverybodyObeys({{"a", 1}});
  EXPECT_EQ(state_->current(), first);
  EXPECT_EQ(Step(VersionSwitched{}).status.code(), StatusCode::kFailedPrecondition);

  VersionRequested request;
  request.spec = *state_->Spec(first);
  request.checkpoint_path = "/models/b";
  const TableVersion second = Step(request).created;
  EXPECT_EQ(Step(VersionSwitched{second}).status.code(), StatusCode::kFailedPrecondition);
  EverybodyObeys({{"a", 1}});
  EXPECT_EQ(state_->current(), first);  // made beside the other, until somebody switches
  EXPECT_TRUE(Step(VersionSwitched{second}).status.ok());
  EXPECT_EQ(state_->current(), second);
  EXPECT_TRUE(Step(VersionSwitched{}).status.ok());
  EXPECT_EQ(state_->current(), first);
  EXPECT_EQ(state_->previous(), second);
  EXPECT_EQ(Step(VersionDropped{first}).status.code(), StatusCode::kFailedPrecondition);
  CoordinatorRestarts();
  EXPECT_EQ(state_->current(), first);
  EXPECT_EQ(state_->previous(), second);
  EXPECT_TRUE(Step(VersionDropped{second}).status.ok());
  EXPECT_EQ(state_->Map(second), nullptr);
  for (const auto& [key, value] : disk_) EXPECT_FALSE(key.starts_with("version/2")) << key;
  proto::HeartbeatRequest message = Alive("a", 1);
  message.add_known_versions(second.value());
  message.add_known_assignment_revisions(1);
  const auto reply = state_->Changes(message);
  ASSERT_EQ(reply.dropped_versions_size(), 1);
  EXPECT_EQ(reply.dropped_versions(0), second.value());
  EXPECT_EQ(Step(VersionDropped{second}).status.code(), StatusCode::kNotFound);
  EXPECT_EQ(Step(VersionSwitched{}).status.code(), StatusCode::kFailedPrecondition);
}

TEST_F(MoveStory, ADamagedSlotIsToldToTheNodeThatHoldsIt) {
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}});
  EXPECT_EQ(AssignmentOf("a", 1).damaged_slots_size(), 0);
  Step(SlotReported{version, SlotIndex(5), "a", Incarnation(77)});  // memory that is gone
  EXPECT_EQ(AssignmentOf("a", 1).damaged_slots_size(), 0);
  Step(SlotReported{version, SlotIndex(5), "a", Incarnation(1)});
  const proto::SlotAssignment told = AssignmentOf("a", 1);
  ASSERT_EQ(told.damaged_slots_size(), 1);
  EXPECT_EQ(told.damaged_slots(0), 5u);
  EXPECT_EQ(told.sources(static_cast<int>(told.slot_sources(5))).id(), "b");
  EXPECT_TRUE(NodeLoads("a", 1).ok());  // it knows now
  EXPECT_EQ(AssignmentOf("a", 1).damaged_slots_size(), 0);
}

TEST_F(MoveStory, DamageThatANodeFindsIsAnsweredOnceWithASource) {
  NodeStarts("a", 1);
  NodeStarts("b", 2);
  const TableVersion version = VersionIsCreated(2);
  EverybodyObeys({{"a", 1}, {"b", 2}});
  // All slots are held; then two are found damaged, told with every heartbeat until one is
  // answered.
  const auto says = [&](const proto::SlotAssignment& held, std::vector<uint32_t> damaged) {
    proto::HeartbeatRequest message = Alive("a", 1);
    proto::HeldVersion* told = message.add_held();
    told->set_version(version.value());
    told->set_assignment_revision(held.revision());
    for (const uint32_t slot : held.slots()) {
      told->add_ready_slots(slot);
      told->add_ready_digests(1000 + slot);
    }
    for (const uint32_t slot : damaged) told->add_damaged_slots(slot);
    return Step(NodeHeartbeat{message});
  };
  const proto::SlotAssignment before = AssignmentOf("a", 1);
  const uint32_t beyond = static_cast<uint32_t>(before.slots_size());
  const ClusterEffects found = says(before, {5, 7, beyond});  // the last is no slot
  ASSERT_EQ(found.notes.size(), 1u);
  EXPECT_THAT(found.notes[0], testing::HasSubstr("node a found damaged rows in 2 of its slots"));
  EXPECT_TRUE(found.wake);
  const proto::SlotAssignment told = AssignmentOf("a", 1);
  EXPECT_GT(told.revision(), before.revision());
  ASSERT_EQ(told.damaged_slots_size(), 2);
  EXPECT_EQ(told.damaged_slots(1), 7u);
  EXPECT_EQ(told.sources(static_cast<int>(told.slot_sources(5))).id(), "b");
  EXPECT_EQ(told.slot_ranks(5), 1u);  // a repair
  EXPECT_EQ(told.slot_ranks(6), 2u);
  EXPECT_EQ(AssignmentOf("b", 2).damaged_slots_size(), 0);
  EXPECT_TRUE(says(before, {5, 7}).notes.empty());
  EXPECT_EQ(AssignmentOf("a", 1).revision(), told.revision());
  // It knows. Later damage is told for itself, and then there are no more revisions.
  EXPECT_TRUE(says(told, {}).notes.empty());
  EXPECT_EQ(AssignmentOf("a", 1).revision(), told.revision());
  EXPECT_EQ(says(told, {9}).notes.size(), 1u);
  const proto::SlotAssignment later = AssignmentOf("a", 1);
  ASSERT_EQ(later.damaged_slots_size(), 1);
  EXPECT_EQ(later.damaged_slots(0), 9u);
  EXPECT_TRUE(says(later, {}).notes.empty());
  EXPECT_EQ(AssignmentOf("a", 1).revision(), later.revision());
}

TEST_F(MoveStory, DamageOfTheOnlyReplicaComesFromTheCheckpointBeforeAllElse) {
  NodeStarts("a", 1);
  const TableVersion version = VersionIsCreated(1);
  EverybodyObeys({{"a", 1}});
  Step(SlotReported{version, SlotIndex(5), "a", Incarnation(1)});
  const proto::SlotAssignment told = AssignmentOf("a", 1);
  EXPECT_EQ(told.slot_sources(5), 0xffffffffu);
  EXPECT_EQ(told.slot_ranks(5), 0u);
  // A new process has new memory.
  NodeStarts("a", 9);
  EXPECT_EQ(AssignmentOf("a", 9).damaged_slots_size(), 0);
}

TEST_F(MoveStory, APreviewSaysWhatWouldMoveAndMovesNothing) {
  for (const auto& [id, incarnation] : {std::pair("a", 1), {"b", 2}, {"c", 3}}) {
    NodeStarts(id, static_cast<uint64_t>(incarnation));
  }
  VersionIsCreated();
  EverybodyObeys({{"a", 1}, {"b", 2}, {"c", 3}});
  proto::GetPlanRequest request;
  const auto nothing = state_->Preview(request);
  ASSERT_TRUE(nothing.has_value());
  EXPECT_EQ(nothing->versions(0).moves(), 0u);
  request.add_drain("b");
  const auto drained = state_->Preview(request);
  ASSERT_TRUE(drained.has_value());
  EXPECT_EQ(drained->versions(0).moves(), NodeOf("b").assigned_slots());
  EXPECT_EQ(drained->versions(0).nodes(1).bytes_after(), 0u);
  EXPECT_LE(static_cast<double>(drained->versions(0).move_bytes()),
            1.1 * static_cast<double>(drained->versions(0).minimum_bytes()));
  EXPECT_EQ(Pending(), 0u);
  EXPECT_FALSE(NodeOf("b").draining());
  request.add_drain("ghost");
  EXPECT_EQ(state_->Preview(request).error().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace engram
