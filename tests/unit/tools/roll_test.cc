#include "tools/roll.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace engram {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

// Two zones with two pods each, all ready and of the old template; whole.
class RollTest : public ::testing::Test {
 protected:
  RollTest() {
    for (const char* zone : {"m-a", "m-b"}) {
      RollSet set{zone, 2, "new", true, {}};
      for (int i = 0; i < 2; ++i) {
        const std::string name = std::string(zone) + "-" + std::to_string(i);
        set.pods.push_back(RollPod{name, "uid-" + name, "old", true, false});
        auto& node = *status_.add_nodes();
        node.set_id(name);
        node.set_up(true);
        node.set_assigned_slots(4);
        node.set_ready_slots(4);
        node.set_incarnation(7);
      }
      sets_.push_back(set);
    }
    auto& version = *status_.add_versions();
    version.set_version(1);
    version.set_replica_count(2);
    version.set_replicas_wanted(2);
  }

  [[nodiscard]] RollStep Next() const { return NextRollStep(sets_, status_, last_); }
  [[nodiscard]] std::string Replaced() const {
    const RollStep step = Next();
    return step.replace.has_value() ? step.replace->name : "";
  }
  RollPod& Pod(int set, int i) { return sets_[set].pods[i]; }
  proto::NodeStatus& Node(int i) { return *status_.mutable_nodes(i); }

  std::vector<RollSet> sets_;
  proto::GetStatusReply status_;
  std::optional<RollReplaced> last_;
};

TEST_F(RollTest, OneAfterTheOtherOverAllZones) {
  for (const char* name : {"m-a-1", "m-a-0", "m-b-1", "m-b-0"}) {
    ASSERT_EQ(Replaced(), name);
    for (RollSet& set : sets_) {
      for (RollPod& pod : set.pods) {
        if (pod.name == name) pod.revision = "new";
      }
    }
  }
  EXPECT_TRUE(Next().done);
}

TEST_F(RollTest, NothingIsReplacedBeforeTheControllerHasSeenTheTemplate) {
  sets_[1].observed = false;
  EXPECT_THAT(Next().waits_for, HasSubstr("StatefulSet m-b to be seen"));
}

TEST_F(RollTest, WaitsForEveryOtherPod) {
  Pod(1, 0).ready = false;
  Pod(1, 0).revision = "new";
  EXPECT_THAT(Next().waits_for, HasSubstr("pod m-b-0 to be ready"));
  Pod(1, 0).ready = true;
  Pod(1, 0).ending = true;
  EXPECT_THAT(Next().waits_for, HasSubstr("pod m-b-0 to be ready"));
  Pod(1, 0) = RollPod{"m-b-0", "", "", false, false};
  EXPECT_THAT(Next().waits_for, HasSubstr("pod m-b-0 to be made"));
}

TEST_F(RollTest, WaitsForEveryOtherNode) {
  Node(3).set_ready_slots(3);
  EXPECT_THAT(Next().waits_for, HasSubstr("node m-b-1 to have all its slots: 3 of 4"));
  Node(3).set_ready_slots(4);
  Node(3).set_incoming_slots(1);
  EXPECT_THAT(Next().waits_for, HasSubstr("1 are to be copied there"));
  Node(3).set_incoming_slots(0);
  Node(3).set_up(false);
  EXPECT_THAT(Next().waits_for, HasSubstr("node m-b-1 to be up"));
  status_.mutable_nodes()->RemoveLast();
  EXPECT_THAT(Next().waits_for, HasSubstr("node m-b-1 to register"));
}

TEST_F(RollTest, NodesThatAreNoPodsCountWhereTheyHaveSlots) {
  auto& other = *status_.add_nodes();
  other.set_id("other");
  EXPECT_EQ(Replaced(), "m-a-1");
  other.set_assigned_slots(2);
  EXPECT_THAT(Next().waits_for, HasSubstr("node other to be up: 2 slots"));
}

TEST_F(RollTest, WaitsForMissingReplicasAndMoves) {
  auto& version = *status_.mutable_versions(0);
  version.set_replicas_missing(3);
  version.set_plan_problem("no memory");
  EXPECT_THAT(Next().waits_for, HasSubstr("3 replicas are missing, 0 are to move; no memory"));
  version.set_replicas_missing(0);
  version.set_moves_pending(1);
  EXPECT_THAT(Next().waits_for, HasSubstr("1 are to move"));
  // A problem of what is whole does not matter.
  version.set_moves_pending(0);
  EXPECT_EQ(Replaced(), "m-a-1");
}

TEST_F(RollTest, AVersionWithOneReplicaStopsItWithWhatToDo) {
  auto& version = *status_.add_versions();
  version.set_version(2);
  version.set_replica_count(1);
  version.set_replicas_wanted(1);
  EXPECT_THAT(Next().waits_for, HasSubstr("version 2 to have a second replica"));
  EXPECT_THAT(Next().waits_for, HasSubstr("create-version --replicas 2 and drop-version 2"));
  // Made with two, one was given up for another version.
  version.set_replica_count(2);
  EXPECT_THAT(Next().waits_for, HasSubstr("version 2 to have a second replica"));
}

TEST_F(RollTest, ATemplateThatDoesNotStartIsReplacedFirst) {
  Pod(1, 0).ready = false;
  Node(2).set_up(false);
  Node(2).set_ready_slots(0);
  status_.mutable_versions(0)->set_replicas_missing(4);
  EXPECT_EQ(Replaced(), "m-b-0");
  // Up, and does not get on with its slots.
  Node(2).set_up(true);
  status_.mutable_versions(0)->set_replicas_missing(0);
  EXPECT_EQ(Replaced(), "m-b-0");
  // Its slots may have their only other holder at one that loads.
  Node(3).set_ready_slots(1);
  EXPECT_THAT(Next().waits_for, HasSubstr("node m-b-1 to have all its slots"));
}

TEST_F(RollTest, OfTwoThatAreNotReadyNoneIsReplaced) {
  // As all are when a coordinator just started.
  Pod(0, 0).ready = Pod(1, 0).ready = false;
  Node(0).set_up(false);
  Node(2).set_up(false);
  EXPECT_THAT(Next().waits_for, HasSubstr("kubectl delete pod m-b-0"));
}

TEST_F(RollTest, TheReplacedNodeMustBeKnownAnew) {
  Pod(0, 1).revision = "new";
  last_ = RollReplaced{"m-a-1", 7};
  EXPECT_THAT(Next().waits_for, HasSubstr("node m-a-1 to be known anew"));
  Node(1).set_incarnation(8);
  EXPECT_EQ(Replaced(), "m-a-0");
}

TEST_F(RollTest, AFollowerIsNotBelieved) {
  status_.set_follower(true);
  EXPECT_THAT(Next().waits_for, HasSubstr("a coordinator to lead"));
}

TEST_F(RollTest, WithoutAVersionNothingIsLost) {
  status_.clear_versions();
  EXPECT_EQ(Replaced(), "m-a-1");
}

TEST(ParseRollTest, StatefulSetsAndPodsOfAnApiServer) {
  json set = {{"metadata", {{"name", "m"}, {"generation", 3}}},
              {"spec", {{"replicas", 2}}},
              {"status", {{"updateRevision", "m-7"}, {"observedGeneration", 2}}}};
  auto parsed = ParseRollSet(set);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
  EXPECT_EQ(parsed->name, "m");
  EXPECT_EQ(parsed->replicas, 2u);
  EXPECT_EQ(parsed->revision, "m-7");
  EXPECT_FALSE(parsed->observed);
  set["status"]["observedGeneration"] = 3;
  EXPECT_TRUE(ParseRollSet(set)->observed);
  set["status"] = json::object();
  EXPECT_FALSE(ParseRollSet(set)->observed);

  json pod = {{"metadata",
               {{"name", "m-0"}, {"uid", "u"}, {"labels", {{"controller-revision-hash", "m-6"}}}}},
              {"status", json::object()}};
  EXPECT_FALSE(ParseRollPod(pod)->ready);
  pod["status"]["conditions"] = json::array({{{"type", "Ready"}, {"status", "True"}}});
  const auto ready = ParseRollPod(pod);
  ASSERT_TRUE(ready.has_value()) << ready.error().ToString();
  EXPECT_TRUE(ready->ready);
  EXPECT_EQ(ready->revision, "m-6");
  EXPECT_FALSE(ready->ending);
  pod["metadata"]["deletionTimestamp"] = "2026-11-28T18:00:00Z";
  EXPECT_TRUE(ParseRollPod(pod)->ending);

  EXPECT_EQ(ParseRollSet(json::array()).error().code(), StatusCode::kMalformed);
  EXPECT_EQ(ParseRollPod({{"metadata", 1}}).error().code(), StatusCode::kMalformed);
}

}  // namespace
}  // namespace engram
