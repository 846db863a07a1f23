// Which replica the scheduler asks: near, then least loaded.
#include "client/replica_choice.h"

#include <gtest/gtest.h>

#include "tests/unit/client/scheduler_fixture.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

class ReplicaChoiceTest : public test::SchedulerFixture {};

TEST_F(ReplicaChoiceTest, EqualReplicasShareTheRowsEvenly) {
  Make();
  SetMap(Map(1, 3, 2));
  OpenAll();
  Begin(0, {900, 0});
  for (const char* address : {"h0:1", "h1:1", "h2:1"}) EXPECT_NEAR(RowsAt(address), 300, 2);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, SameZoneIsPreferred) {
  options_.zone = "b";
  Make();
  ShardMap map = Map(1, 2, 2);
  map.nodes[0].zone = "a";
  map.nodes[1].zone = "b";
  SetMap(map);
  OpenAll();
  Begin(0, {40, 40});
  EXPECT_EQ(RowsAt("h0:1"), 0u);
  EXPECT_EQ(RowsAt("h1:1"), 80u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, NodeThatIsSaidToBeDownIsAskedLast) {
  Make();
  ShardMap map = Map(1, 2, 2);
  SetMap(map);
  OpenAll();
  map.epoch = Epoch(2);
  map.nodes[0].incarnation = Incarnation(0);
  SetMap(map);
  Begin(0, {40, 40});
  EXPECT_EQ(RowsAt("h0:1"), 0u);
  EXPECT_EQ(RowsAt("h1:1"), 80u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, SameHostIsPreferredToTheSameZone) {
  options_.zone = "b";
  mapped_ = {"h0:1"};
  Make();
  ShardMap map = Map(1, 2, 2);
  map.nodes[0].zone = "a";
  map.nodes[1].zone = "b";
  SetMap(map);
  OpenAll();
  Begin(0, {40, 40});
  EXPECT_EQ(RowsAt("h0:1"), 80u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, NearNodeThatIsLostLeavesItsRowsToTheFarOne) {
  options_.zone = "a";
  Make();
  ShardMap map = Map(1, 2, 2);
  map.nodes[1].zone = "b";
  map.nodes[0].zone = "a";
  SetMap(map);
  OpenAll();
  Begin(0, {40, 0});
  EXPECT_EQ(RowsAt("h0:1"), 40u);
  Close(SessionOf("h0:1"), StatusCode::kPeerLost);
  scheduler_->Pump(now_);
  EXPECT_EQ(RowsAt("h1:1"), 40u);
  Begin(1, {40, 0});
  EXPECT_EQ(RowsAt("h1:1"), 80u);
  AnswerAll();
  ExpectAllTaken(0);
  ExpectAllTaken(1);
}

TEST_F(ReplicaChoiceTest, LeastLoadedReplicaIsPreferred) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {40, 0});
  EXPECT_EQ(RowsAt("h0:1"), 20u);
  AnswerAllAt("h1:1");
  Begin(1, {20, 0});
  EXPECT_EQ(RowsAt("h0:1"), 20u);
  EXPECT_EQ(RowsAt("h1:1"), 20u);
  AnswerAll();
  ExpectAllTaken(0);
  ExpectAllTaken(1);
}

TEST_F(ReplicaChoiceTest, SlowerReplicaGetsFewerRows) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  for (int i = 0; i < 50; ++i) {
    Begin(0, {60, 0});
    Advance(milliseconds(1));
    AnswerAllAt("h1:1");
    Advance(milliseconds(1));
    AnswerAllAt("h0:1");
    ExpectAllTaken(0);
  }
  Begin(0, {90, 0});
  EXPECT_NEAR(RowsAt("h0:1"), 30, 1);
  EXPECT_NEAR(RowsAt("h1:1"), 60, 1);
  AnswerAll();
}

TEST_F(ReplicaChoiceTest, NodeThatWasSlowOnceIsStillAskedAndRecovers) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(9));
  AnswerAllAt("h0:1");
  Begin(0, {90, 0});
  EXPECT_EQ(RowsAt("h0:1"), 10u);  // one row in nine
  AnswerAll();
  for (int i = 0; i < 100; ++i) {
    Begin(0, {40, 0});
    Advance(milliseconds(1));
    AnswerAll();
  }
  Begin(0, {90, 0});
  EXPECT_EQ(RowsAt("h0:1"), 45u);
  AnswerAll();
}

TEST_F(ReplicaChoiceTest, RowsDoNotWaitForAReplicaThatDoesNotOpen) {
  Make();
  SetMap(Map(1, 2, 2));
  Begin(0, {40, 0});
  EXPECT_TRUE(reader_.reads.empty());
  const SessionId session = SessionOf("h1:1");
  reader_.sessions[session].open = true;
  scheduler_->OnOpen(session, {}, now_);
  EXPECT_EQ(RowsAt("h1:1"), 40u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, EveryReplicaIsTriedBeforeAnyIsAskedAgain) {
  Make();
  SetMap(Map(1, 3, 3));
  OpenAll();
  Begin(0, {1, 0});
  std::set<SessionId> asked;
  for (int i = 0; i < 3; ++i) {
    ASSERT_EQ(reader_.reads.size(), 1u);
    asked.insert(reader_.reads.begin()->second.session);
    Answer(reader_.reads.begin()->first, {{0, StatusCode::kNotOwned}});
    scheduler_->Pump(now_);
  }
  EXPECT_EQ(asked.size(), 3u);
  EXPECT_TRUE(reader_.reads.empty()) << "a fourth time without a pause";
  Live(milliseconds(10), [&] { AnswerAll(); });
  ExpectAllTaken(0);
}

TEST_F(ReplicaChoiceTest, FailureNamesTheOtherReplicasToo) {
  Make();
  SetMap(Map(1, 2, 2));
  Close(SessionOf("h0:1"), StatusCode::kUnavailable);
  Close(SessionOf("h1:1"), StatusCode::kUnavailable);
  Begin(0, {1, 0}, milliseconds(20));
  Advance(milliseconds(20));
  const std::string message = rows_.tickets[0].layers_done.at(0).message();
  EXPECT_NE(message.find("memory node m"), std::string::npos) << message;
  EXPECT_NE(message.find("nor did replica m"), std::string::npos) << message;
}

}  // namespace
}  // namespace engram
