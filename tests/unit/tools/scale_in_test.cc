#include "tools/scale_in.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

proto::NodeStatus& AddNode(proto::GetStatusReply* status, const std::string& id,
                           bool draining = false, bool up = true) {
  auto& node = *status->add_nodes();
  node.set_id(id);
  node.set_draining(draining);
  node.set_up(up);
  return node;
}

proto::GetStatusReply FiveNodes() {
  proto::GetStatusReply status;
  for (int i = 0; i < 5; ++i) AddNode(&status, "pool-memory-" + std::to_string(i));
  return status;
}

TEST(ParseKeptNodesTest, TakesAPrefixAndACount) {
  const auto kept = ParseKeptNodes("pool-memory-=3");
  ASSERT_TRUE(kept.has_value());
  EXPECT_EQ(kept->prefix, "pool-memory-");
  EXPECT_EQ(kept->count, 3u);
  EXPECT_EQ(ParseKeptNodes("m=0")->count, 0u);
}

TEST(ParseKeptNodesTest, RefusesTheRestWithAnExample) {
  for (const char* text : {"", "=3", "m", "m=", "m=-1", "m=3x", "m=03", "m=99999999999999999999"}) {
    const auto kept = ParseKeptNodes(text);
    ASSERT_FALSE(kept.has_value()) << text;
    EXPECT_THAT(kept.error().message(), HasSubstr("such as engram-memory-=3")) << text;
  }
}

TEST(PlanScaleInTest, NodesFromTheCountOnLeave) {
  const ScaleIn plan = PlanScaleIn(FiveNodes(), {{"pool-memory-", 3}}, {}, {});
  EXPECT_THAT(plan.leaving, ElementsAre("pool-memory-3", "pool-memory-4"));
  EXPECT_THAT(plan.undrained, IsEmpty());
}

TEST(PlanScaleInTest, NodesOfOtherNamesAreLeftAlone) {
  proto::GetStatusReply status;
  for (const char* id : {"pool-memory-a-9", "pool-memory-", "pool-memory-07", "pool-memory-9x",
                         "other-9", "pool-memory-99999999999999999999"}) {
    AddNode(&status, id, /*draining=*/true);
  }
  const ScaleIn plan = PlanScaleIn(status, {{"pool-memory-", 1}}, {}, {});
  EXPECT_THAT(plan.leaving, IsEmpty());
  EXPECT_THAT(plan.undrained, IsEmpty());
}

TEST(PlanScaleInTest, EachZoneHasItsCount) {
  proto::GetStatusReply status;
  for (const char* id : {"m-a-0", "m-a-1", "m-b-0", "m-b-1"}) AddNode(&status, id);
  EXPECT_THAT(PlanScaleIn(status, {{"m-a-", 2}, {"m-b-", 1}}, {}, {}).leaving,
              ElementsAre("m-b-1"));
}

proto::GetStatusReply NodesNamed(const std::vector<std::string>& ids) {
  proto::GetStatusReply status;
  for (const std::string& id : ids) AddNode(&status, id);
  return status;
}

TEST(PlanScaleInTest, NodesOfAllThatNoSetKeepsLeave) {
  // Zones where there were none, a zone less, and back to none; 0 may be a zone's name.
  EXPECT_THAT(PlanScaleIn(NodesNamed({"m-0", "m-1", "m-2"}), {{"m-a-", 2}, {"m-b-", 1}}, {"m-"}, {})
                  .leaving,
              ElementsAre("m-0", "m-1", "m-2"));
  EXPECT_THAT(
      PlanScaleIn(NodesNamed({"m-a-0", "m-b-0", "m-b-1"}), {{"m-a-", 3}}, {"m-"}, {}).leaving,
      ElementsAre("m-b-0", "m-b-1"));
  EXPECT_THAT(PlanScaleIn(NodesNamed({"m-0-0", "m-b-1", "m-1"}), {{"m-", 3}}, {"m-"}, {}).leaving,
              ElementsAre("m-0-0", "m-b-1"));
  EXPECT_THAT(PlanScaleIn(NodesNamed({"other-0", "m", "m-0"}), {{"m-", 1}}, {"m-"}, {}).leaving,
              IsEmpty());
}

TEST(CheckScaleInTest, AllAtOnceIsRefused) {
  proto::GetStatusReply status = NodesNamed({"m-0", "m-1"});
  const ScaleIn zones = PlanScaleIn(status, {{"m-a-", 1}, {"m-b-", 1}}, {"m-"}, {});
  // Nothing is loaded: nothing is lost.
  EXPECT_TRUE(CheckScaleIn(status, zones, {}).ok());
  status.add_versions()->set_replica_count(1);
  const Status refused = CheckScaleIn(status, zones, {});
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("new ones come only after these have gone"));
}

TEST(PlanScaleInTest, NodesThatStayTakeSlotsAgainUnlessKeptDrained) {
  proto::GetStatusReply status;
  for (int i = 0; i < 4; ++i) AddNode(&status, "m" + std::to_string(i), /*draining=*/i > 0);
  const ScaleIn plan = PlanScaleIn(status, {{"m", 3}}, {}, {"m2"});
  EXPECT_THAT(plan.leaving, ElementsAre("m3"));
  EXPECT_THAT(plan.undrained, ElementsAre("m1"));
}

TEST(CheckScaleInTest, FewerNodesThanReplicasAreRefused) {
  proto::GetStatusReply status = FiveNodes();
  status.add_versions()->set_replica_count(3);
  const auto check = [&](uint64_t count) {
    return CheckScaleIn(status, PlanScaleIn(status, {{"pool-memory-", count}}, {}, {}), {});
  };
  EXPECT_TRUE(check(3).ok());
  EXPECT_EQ(check(2).code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(check(2).message(), HasSubstr("2 nodes that take slots would be left"));
}

TEST(CheckScaleInTest, NodesThatAreDownOrStayDrainedDoNotCount) {
  proto::GetStatusReply status;
  AddNode(&status, "m0");
  AddNode(&status, "m1", false, /*up=*/false);
  AddNode(&status, "m2", /*draining=*/true);
  AddNode(&status, "m3");
  status.add_versions()->set_replica_count(2);
  EXPECT_FALSE(CheckScaleIn(status, PlanScaleIn(status, {{"m", 3}}, {}, {"m2"}), {}).ok());
  EXPECT_TRUE(CheckScaleIn(status, PlanScaleIn(status, {{"m", 3}}, {}, {}), {}).ok());
}

TEST(CheckScaleInTest, WhatThePlannerRefusesIsTold) {
  const proto::GetStatusReply status = FiveNodes();
  proto::GetPlanReply plan;
  plan.add_versions()->set_problem("nodes have too little memory");
  const ScaleIn fewer = PlanScaleIn(status, {{"pool-memory-", 2}}, {}, {});
  EXPECT_THAT(CheckScaleIn(status, fewer, plan).message(),
              HasSubstr("has no place: nodes have too little memory. Keep more nodes"));
  // Nobody is to go: no reason to stop an upgrade.
  EXPECT_TRUE(CheckScaleIn(status, PlanScaleIn(status, {{"pool-memory-", 5}}, {}, {}), plan).ok());
}

TEST(CheckScaleInTest, VersionsThatFitOneByOneMustFitTogether) {
  proto::GetStatusReply status;
  for (int i = 0; i < 3; ++i) {
    AddNode(&status, "m" + std::to_string(i)).set_capacity_bytes(i == 2 ? 10 : 200);
  }
  proto::GetPlanReply plan;
  for (uint64_t number = 1; number <= 2; ++number) {
    auto& version = *plan.add_versions();
    version.set_version(number);
    for (const char* id : {"m0", "m1"}) {
      auto& node = *version.add_nodes();
      node.set_id(id);
      node.set_bytes_after(100);
    }
  }
  const ScaleIn fewer = PlanScaleIn(status, {{"m", 2}}, {}, {});
  EXPECT_TRUE(CheckScaleIn(status, fewer, plan).ok());
  plan.mutable_versions(1)->mutable_nodes(1)->set_bytes_after(101);
  const Status refused = CheckScaleIn(status, fewer, plan);
  EXPECT_EQ(refused.code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(refused.message(), HasSubstr("m1 would hold 201 bytes of all versions together"));
}

}  // namespace
}  // namespace engram
