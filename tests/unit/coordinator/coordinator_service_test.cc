// What the coordinator answers, keeps and forgets.
#include "coordinator/coordinator_service.h"

#include <algorithm>
#include <string>
#include <utility>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/table/table_proto.h"
#include "tests/unit/coordinator/following_fixture.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST_F(CoordinatorServiceTest, AMethodThatItDoesNotHaveIsNamed) {
  const auto reply = Call("admin.Reboot", "");
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(reply.error().message(), HasSubstr("admin.Reboot"));
}

TEST_F(CoordinatorServiceTest, ABodyThatIsNotTheMethodsMessageIsMalformed) {
  for (const char* method : {"node.Register", "node.Heartbeat", "directory.GetShardMap",
                             "directory.ReportSlot", "admin.CreateVersion", "admin.GetStatus"}) {
    const auto reply = Call(method, "\xff\xff\xff");
    ASSERT_FALSE(reply.has_value()) << method;
    EXPECT_EQ(reply.error().code(), StatusCode::kMalformed) << method;
  }
}

TEST_F(CoordinatorServiceTest, AMapOfNoVersionIsNotFound) {
  const auto current = Call("directory.GetShardMap", MapBody(0, 0, 0));
  ASSERT_FALSE(current.has_value());
  EXPECT_EQ(current.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(current.error().message(), HasSubstr("create-version"));
  // A number that no version has is answered at once, however long the caller would wait.
  const auto numbered = Call("directory.GetShardMap", MapBody(9, 0, kForeverMs));
  ASSERT_FALSE(numbered.has_value());
  EXPECT_EQ(numbered.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(numbered.error().message(), HasSubstr("9"));
}

TEST_F(CoordinatorServiceTest, ACheckpointThatIsNotThereIsNamed) {
  proto::CreateVersionRequest request;
  request.set_checkpoint_path((scratch_.path() / "nowhere").string());
  const auto reply = Call("admin.CreateVersion", request.SerializeAsString());
  ASSERT_FALSE(reply.has_value());
  EXPECT_THAT(reply.error().message(), HasSubstr("nowhere"));
}

TEST_F(CoordinatorServiceTest, AVersionNeedsANode) {
  const auto reply = Call("admin.CreateVersion", CreateVersionBody());
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kFailedPrecondition);
}

TEST_F(CoordinatorServiceTest, AClientOfAnotherModelIsRefused) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto refused =
      Call("directory.GetShardMap", MapBody(version, 0, kForeverMs, std::string(32, 'x')));
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kWrongModel);
  const auto tables = ReadModelTables(model_dir(), true);
  ASSERT_TRUE(tables.has_value()) << tables.error().ToString();
  EXPECT_THAT(refused.error().message(), HasSubstr(ModelIdentityHex(tables->identity)));
  const std::string own = ModelIdentityToBytes(tables->identity);
  const auto reply =
      Parse<proto::GetShardMapReply>(Call("directory.GetShardMap", MapBody(version, 0, 0, own)));
  EXPECT_EQ(reply.model_identity(), own);
  EXPECT_EQ(reply.map().version(), version);
}

TEST_F(CoordinatorServiceTest, AHeldHeartbeatIsAnsweredWhenAVersionIsCreated) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply held = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  EXPECT_FALSE(held->has_value());
  const uint64_t version = CreateVersion();
  const auto reply = Parse<proto::HeartbeatReply>(Await(held));
  ASSERT_EQ(reply.changed_size(), 1);
  EXPECT_EQ(reply.changed(0).version(), version);
  EXPECT_EQ(reply.changed(0).checkpoint_path(), model_dir().string());
  EXPECT_EQ(reply.changed(0).slots_size(), Map(version).map().owners_size());
}

TEST_F(CoordinatorServiceTest, AHeldMapRequestIsAnsweredWhenTheMapChanges) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply early = BeginCall("directory.GetShardMap", MapBody(0, 0, kForeverMs));
  EXPECT_FALSE(early->has_value());  // no version yet: clients may come first
  const uint64_t version = CreateVersion();
  const uint64_t epoch = Parse<proto::GetShardMapReply>(Await(early)).map().epoch();
  const Reply held = BeginCall("directory.GetShardMap", MapBody(version, epoch, kForeverMs));
  EXPECT_FALSE(held->has_value());
  ASSERT_TRUE(Register("a", 12).has_value());  // the node's process started again
  const auto reply = Parse<proto::GetShardMapReply>(Await(held));
  EXPECT_GT(reply.map().epoch(), epoch);
  ASSERT_EQ(reply.map().nodes_size(), 1);
  EXPECT_EQ(reply.map().nodes(0).incarnation(), 12u);
}

TEST_F(CoordinatorServiceTest, AReaderOfADroppedVersionIsToldWhatIsCurrent) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  proto::DropVersionRequest drop;
  drop.set_version(version);
  ASSERT_TRUE(Call("admin.DropVersion", drop.SerializeAsString()).has_value());
  proto::GetShardMapRequest request;
  request.set_version(version);
  request.set_known_epoch(1);
  request.set_wait_ms(kForeverMs);
  request.set_known_current(version);
  const auto reply =
      Parse<proto::GetShardMapReply>(Call("directory.GetShardMap", request.SerializeAsString()));
  EXPECT_FALSE(reply.has_map());
  EXPECT_FALSE(reply.ready());
  EXPECT_NE(reply.current_version(), version);
  // Once it knows, there is nothing to tell.
  request.set_known_current(reply.current_version());
  EXPECT_EQ(Call("directory.GetShardMap", request.SerializeAsString()).error().code(),
            StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, StopAnswersHeldCalls) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply heartbeat = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  const Reply map = BeginCall("directory.GetShardMap", MapBody(0, 0, kForeverMs));
  EXPECT_FALSE(heartbeat->has_value());
  EXPECT_FALSE(map->has_value());
  service_->Stop();
  EXPECT_TRUE(Await(heartbeat).has_value());
  EXPECT_EQ(Await(map).error().code(), StatusCode::kNotFound);
}

TEST_F(CoordinatorServiceTest, ARestartWithTheSameFileKeepsTheVersion) {
  const auto term = Parse<proto::RegisterNodeReply>(Register("a", 11)).term();
  const uint64_t version = CreateVersion();
  const auto before = Map(version);
  End();
  Start();
  const auto after = Map(0);
  EXPECT_EQ(after.map().version(), version);
  EXPECT_GT(after.map().epoch(), before.map().epoch());
  EXPECT_TRUE(std::equal(before.map().owners().begin(), before.map().owners().end(),
                         after.map().owners().begin(), after.map().owners().end()));
  EXPECT_EQ(after.model_identity(), before.model_identity());
  // The node is known still: it need not register again.
  const auto reply =
      Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, 0)));
  EXPECT_GT(reply.term(), term);
  EXPECT_EQ(reply.changed_size(), 1);
  EXPECT_EQ(CreateVersion(), version + 1);
}

TEST_F(CoordinatorServiceTest, WhatIsNotDurableIsNotAnsweredAndEndsTheCoordinator) {
  ASSERT_TRUE(Register("a", 11).has_value());
  disk_full_ = true;
  const auto reply = Call("admin.CreateVersion", CreateVersionBody());
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kIo);
  EXPECT_EQ(fatal_.code(), StatusCode::kIo);
  disk_full_ = false;
  End();
  Start();
  EXPECT_EQ(CreateVersion(), 1u);  // nobody ever saw the first one
}

TEST_F(FollowingServiceTest, WhatItHasNotReadItDoesNotInvent) {
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(0, 0, 0)).error().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(Call("admin.GetStatus", "").error().code(), StatusCode::kUnavailable);
}

TEST_F(FollowingServiceTest, AFollowerAnswersReadsAndRefusesTheRestNamingTheLeader) {
  BecomeLeader(5);
  EXPECT_EQ(service_->leader(), "");
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto published = Map(version);
  EXPECT_FALSE(published.ready());

  BecomeFollower("there:1");
  EXPECT_EQ(service_->leader(), "there:1");
  const auto followed = Map(version);
  EXPECT_EQ(followed.SerializeAsString(), published.SerializeAsString());
  const auto status = Parse<proto::GetStatusReply>(Call("admin.GetStatus", ""));
  EXPECT_TRUE(status.follower());
  EXPECT_EQ(status.leader(), "there:1");
  EXPECT_EQ(status.nodes_size(), 1);
  const auto records = world_.records;
  for (const auto& reply :
       {Register("b", 22), Call("node.Heartbeat", HeartbeatBody("a", 11, 0)),
        Call("directory.ReportSlot", ""), Call("admin.CreateVersion", CreateVersionBody())}) {
    ASSERT_FALSE(reply.has_value());
    EXPECT_EQ(reply.error().code(), StatusCode::kUnavailable) << reply.error().ToString();
    EXPECT_THAT(reply.error().message(), HasSubstr("there:1"));
  }
  EXPECT_EQ(world_.records, records);
  // The leader may know it.
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(9, 0, 0)).error().code(),
            StatusCode::kUnavailable);
}

TEST_F(FollowingServiceTest, AHeldMapRequestIsAnsweredWhenTheLeadersMapIsRead) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const auto records = world_.records;
  const uint64_t epoch = Map(version).map().epoch();
  ASSERT_TRUE(Register("a", 12).has_value());
  auto newer = std::exchange(world_.records, records);
  BecomeFollower("there:1");  // it has not read the newest yet
  const Reply held = BeginCall("directory.GetShardMap", MapBody(version, epoch, kForeverMs));
  EXPECT_FALSE(held->has_value());
  world_.records = std::move(newer);
  BecomeFollower("there:1");
  EXPECT_EQ(Parse<proto::GetShardMapReply>(Await(held)).map().nodes(0).incarnation(), 12u);
}

TEST_F(FollowingServiceTest, ClientsWithAMapAreSentAwayFromAFollowerThatIsCutOff) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  BecomeFollower("there:1");
  world_.leadership.followed_at -= std::chrono::seconds(60);
  EXPECT_EQ(Call("directory.GetShardMap", MapBody(version, 1, kForeverMs)).error().code(),
            StatusCode::kUnavailable);
  EXPECT_EQ(Map(version).map().version(), version);  // a newcomer has nothing better
}

TEST_F(FollowingServiceTest, ALeaderThatCannotWriteStepsDownAndForgetsWhatItHad) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const Reply held = BeginCall("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs));
  world_.commit = Status(StatusCode::kUnavailable, "etcd is away");
  // It may have been written: whoever asked must not simply ask again.
  EXPECT_EQ(Call("admin.CreateVersion", CreateVersionBody()).error().code(),
            StatusCode::kDeadlineExceeded);
  EXPECT_EQ(world_.resigned, 5u);
  EXPECT_EQ(fatal_, Status());
  EXPECT_EQ(Await(held).error().code(), StatusCode::kUnavailable);
  world_.commit = Status();
  BecomeLeader(6);
  const auto status = Parse<proto::GetStatusReply>(Call("admin.GetStatus", ""));
  EXPECT_EQ(status.term(), 6u);
  EXPECT_EQ(status.versions_size(), 0);
  EXPECT_EQ(CreateVersion(), 1u);  // nobody ever saw the first one
}

TEST_F(FollowingServiceTest, ATermThatEndedUnseenIsNoticedBeforeAnythingIsDone) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  const auto records = world_.records;
  world_.leadership = {0, "", nullptr, {}};  // the process was stopped past its lease
  EXPECT_EQ(Register("b", 22).error().code(), StatusCode::kUnavailable);
  EXPECT_EQ(world_.records, records);
}

TEST_F(FollowingServiceTest, DamagedRecordsEndALeader) {
  world_.records = {{"version/1", "rubbish"}};
  BecomeLeader(5);
  EXPECT_EQ(fatal_.code(), StatusCode::kCorrupt);
}

}  // namespace
}  // namespace engram
