#include "client/read_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/scheduler_fixture.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

class ReadSchedulerTest : public test::SchedulerFixture {};

TEST_F(ReadSchedulerTest, RowsGoToTheNodesThatOwnTheirSlots) {
  Make();
  SetMap(Map(1, 3));
  OpenAll();
  Begin(0, {50, 50});
  ASSERT_FALSE(reader_.reads.empty());
  for (const auto& [tag, read] : reader_.reads) {
    const std::string address = reader_.sessions.at(read.session).target.address;
    for (const RowAddress row : read.rows) {
      EXPECT_EQ(address, "h" + std::to_string(layout_->SlotOf(row).value() % 3) + ":1");
    }
  }
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, ReadsAreEvenPartsOfAtMostReadRowsMax) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {250, 0});
  ASSERT_EQ(reader_.reads.size(), 3u);
  for (const auto& [tag, read] : reader_.reads) {
    EXPECT_GE(read.rows.size(), 83u);
    EXPECT_LE(read.rows.size(), 84u);
  }
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, FirstLayerLeavesFirstAndAlone) {
  options_.sessions.reads_in_flight_max = 1;
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {60, 60});
  ASSERT_EQ(reader_.reads.size(), 1u);
  const auto& rows = reader_.reads.begin()->second.rows;
  EXPECT_EQ(rows.size(), 60u);
  EXPECT_EQ(rows.front(), rows_.tickets[0].addresses.front());
  EXPECT_EQ(rows.back(), rows_.tickets[0].addresses[59]);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, FewRowsOfTwoLayersShareARead) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {5, 5});
  ASSERT_EQ(reader_.reads.size(), 1u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, WindowIsNeverExceeded) {
  options_.sessions.reads_in_flight_max = 2;
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {1000, 0});
  EXPECT_EQ(reader_.reads.size(), 2u);
  Answer(reader_.reads.begin()->first);
  scheduler_->Pump(now_);
  EXPECT_EQ(reader_.reads.size(), 2u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, RowsWaitForTheSessionToOpen) {
  Make();
  Begin(0, {20, 20});  // before there is a map
  EXPECT_TRUE(reader_.sessions.empty());
  SetMap(Map(1, 2));
  EXPECT_EQ(reader_.sessions.size(), 2u);
  EXPECT_TRUE(reader_.reads.empty());
  OpenAll();
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, ReaderThatIsFullIsAskedAgain) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  reader_.post_code = StatusCode::kResourceExhausted;
  Begin(0, {20, 20});
  EXPECT_TRUE(reader_.reads.empty());
  reader_.post_code = StatusCode::kOk;
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, ABusyNodeIsLeftAloneForAsLongAsItAsks) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {150, 0});
  ASSERT_EQ(reader_.reads.size(), 2u);
  const SessionId session = reader_.reads.begin()->second.session;
  // Both of its reads are refused; the second says nothing new.
  for (int i = 0; i < 2; ++i) {
    const uint64_t tag = reader_.reads.begin()->first;
    reader_.reads.erase(tag);
    scheduler_->OnBusy(session, std::chrono::milliseconds(20), now_);
    scheduler_->OnReadDone(tag, StatusCode::kResourceExhausted, now_);
  }
  const MonotonicTime refused_at = now_;
  EXPECT_LE(scheduler_->NextTick(), refused_at + std::chrono::milliseconds(30));
  int waited_ms = 0;
  while (reader_.reads.empty() && waited_ms < 100) {
    Advance(std::chrono::milliseconds(1));
    ++waited_ms;
  }
  // Half to one and a half times what it said.
  EXPECT_GE(waited_ms, 10);
  EXPECT_LE(waited_ms, 31);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, ANodeThatStaysBusyIsAskedLessAndLessAndNamedInTheEnd) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {100, 0}, std::chrono::milliseconds(1000));
  std::vector<MonotonicTime> asked;
  for (int ms = 0; ms < 1001; ++ms) {
    while (!reader_.reads.empty()) {
      const auto [tag, read] = *reader_.reads.begin();
      asked.push_back(now_);
      reader_.reads.erase(tag);
      scheduler_->OnBusy(read.session, std::chrono::milliseconds(2), now_);
      scheduler_->OnReadDone(tag, StatusCode::kResourceExhausted, now_);
    }
    Advance(std::chrono::milliseconds(1));
  }
  EXPECT_GE(asked.size(), 5u);
  EXPECT_LE(asked.size(), 20u);
  EXPECT_GT(asked.back() - asked[asked.size() - 2], 10 * (asked[1] - asked[0]));
  const Status& status = rows_.tickets[0].layers_done.at(0);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("m0 (h0:1) answered RESOURCE_EXHAUSTED"));
}

TEST_F(ReadSchedulerTest, NotOwnedRowsAreAskedAgainLaterAndAMapIsWanted) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {20, 0});
  Answer(reader_.reads.begin()->first, {{3, StatusCode::kNotOwned}, {7, StatusCode::kNotOwned}});
  EXPECT_GE(rows_.maps_wanted, 1u);
  EXPECT_EQ(rows_.reads_retried, 1u);
  scheduler_->Pump(now_);
  EXPECT_TRUE(reader_.reads.empty()) << "asked again without a pause";
  EXPECT_LE(scheduler_->NextTick(), now_ + milliseconds(1));
  Advance(milliseconds(1));
  ASSERT_EQ(reader_.reads.size(), 1u);
  EXPECT_EQ(reader_.reads.begin()->second.rows.size(), 2u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, NewMapSendsDelayedRowsToTheNewOwnerAtOnce) {
  Make();
  ShardMap map = Map(1, 2);
  for (NodeIndex& owner : map.owners) owner = NodeIndex(0);
  SetMap(map);
  OpenAll();
  Begin(0, {20, 0});
  Answer(reader_.reads.begin()->first, {{0, StatusCode::kNotOwned}});
  for (NodeIndex& owner : map.owners) owner = NodeIndex(1);
  map.epoch = Epoch(2);
  SetMap(map);
  ASSERT_EQ(reader_.reads.size(), 1u);
  EXPECT_EQ(reader_.reads.begin()->second.session, SessionOf("h1:1"));
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, OlderMapIsIgnored) {
  Make();
  SetMap(Map(5, 1));
  SetMap(Map(4, 3));
  EXPECT_EQ(reader_.sessions.size(), 1u);
}

TEST_F(ReadSchedulerTest, CorruptRowIsReportedAndTheReplicaIsAskedAtOnce) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {1, 0});
  const SessionId first = reader_.reads.begin()->second.session;
  Answer(reader_.reads.begin()->first, {}, true);
  ASSERT_EQ(rows_.wrong_rows.size(), 1u);
  EXPECT_EQ(rows_.wrong_rows[0].first, layout_->SlotOf(rows_.tickets[0].addresses[0]));
  scheduler_->Pump(now_);
  ASSERT_EQ(reader_.reads.size(), 1u);
  EXPECT_NE(reader_.reads.begin()->second.session, first);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, RowsOfALostNodeGoToItsReplica) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {40, 40});
  Close(SessionOf("h0:1"), StatusCode::kPeerLost);
  Advance(milliseconds(1));
  for (const auto& [tag, read] : reader_.reads) EXPECT_EQ(read.session, SessionOf("h1:1"));
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, LostSessionIsOpenedAgainWithGrowingPauses) {
  Make();
  SetMap(Map(1, 1));
  milliseconds last(0);
  for (int i = 0; i < 6; ++i) {
    ASSERT_EQ(reader_.sessions.size(), 1u);
    Close(SessionOf("h0:1"), StatusCode::kUnavailable);
    milliseconds waited(0);
    while (reader_.sessions.empty() && waited < milliseconds(2000)) {
      Advance(milliseconds(1));
      ++waited;
    }
    EXPECT_GE(waited, last / 3);  // doubles, times 0.5 to 1.5
    last = waited;
  }
  EXPECT_GE(last, milliseconds(40));
}

TEST_F(ReadSchedulerTest, DeadlineNamesRowNodeAndReason) {
  Make();
  SetMap(Map(1, 1));
  Close(SessionOf("h0:1"), StatusCode::kUnavailable);
  Begin(0, {3, 2}, milliseconds(100));
  EXPECT_LE(scheduler_->NextTick(), now_ + milliseconds(100));
  Advance(milliseconds(99));
  EXPECT_TRUE(rows_.tickets[0].active);
  Advance(milliseconds(1));
  EXPECT_FALSE(rows_.tickets[0].active);
  EXPECT_EQ(rows_.tickets[0].rows_failed, 5u);
  const Status& status = rows_.tickets[0].layers_done.at(0);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("memory node m0 (h0:1)"));
  EXPECT_THAT(status.message(), ::testing::HasSubstr("3 rows"));
}

TEST_F(ReadSchedulerTest, LayerThatIsCompleteIsGoodThoughAnotherFails) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {20, 20}, milliseconds(100));
  ASSERT_EQ(reader_.reads.size(), 2u);
  for (const auto& [tag, read] : reader_.reads) {
    if (read.rows.front() == rows_.tickets[0].addresses[0]) {
      Answer(tag);
      break;
    }
  }
  Advance(milliseconds(100));
  EXPECT_TRUE(rows_.tickets[0].layers_done.at(0).ok());
  EXPECT_EQ(rows_.tickets[0].layers_done.at(1).code(), StatusCode::kDeadlineExceeded);
}

TEST_F(ReadSchedulerTest, RowOutOfRangeFailsWithoutAnotherTry) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {4, 0});
  Answer(reader_.reads.begin()->first, {{1, StatusCode::kInvalidArgument}});
  EXPECT_FALSE(rows_.tickets[0].active);
  EXPECT_EQ(rows_.tickets[0].layers_done.at(0).code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(rows_.tickets[0].rows_failed, 1u);
}

TEST_F(ReadSchedulerTest, LateRowsOfAnEndedTicketAreIgnored) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {20, 20}, milliseconds(1000), 1);
  const auto late = reader_.reads;
  scheduler_->End(0);
  Begin(0, {20, 20}, milliseconds(1000), 2);  // the same slot, other rows
  for (const auto& [tag, read] : late) Answer(tag);
  EXPECT_THAT(rows_.tickets[0].times_taken, ::testing::Each(0));
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, EpochIsAcknowledgedAfterTheLastReadUnderTheOldMap) {
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  const SessionId session = SessionOf("h0:1");
  EXPECT_EQ(reader_.sessions[session].acknowledged, Epoch(1));
  Begin(0, {20, 20});
  const auto old_reads = reader_.reads;
  ASSERT_EQ(old_reads.size(), 2u);
  SetMap(Map(2, 1));
  Begin(1, {20, 20}, milliseconds(1000), 3);
  Answer(old_reads.begin()->first);
  EXPECT_EQ(reader_.sessions[session].acknowledged, Epoch(1));
  Answer(old_reads.rbegin()->first);
  EXPECT_EQ(reader_.sessions[session].acknowledged, Epoch(2));
  AnswerAll();
  ExpectAllTaken(0);
  ExpectAllTaken(1);
}

TEST_F(ReadSchedulerTest, NodeThatRestartedGetsANewSessionAndTheOldOneIsClosed) {
  Make();
  ShardMap map = Map(1, 1);
  SetMap(map);
  OpenAll();
  const SessionId old_session = SessionOf("h0:1");
  Begin(0, {20, 0});
  map.epoch = Epoch(2);
  map.nodes[0].incarnation = Incarnation(99);
  SetMap(map);
  EXPECT_TRUE(reader_.sessions[old_session].closing);
  const SessionId fresh = SessionOf("h0:1");
  EXPECT_EQ(reader_.sessions[fresh].target.incarnation, Incarnation(99));
  OpenAll();
  Close(old_session, StatusCode::kCancelled);
  scheduler_->Pump(now_);
  ASSERT_EQ(reader_.reads.size(), 1u);
  EXPECT_EQ(reader_.reads.begin()->second.session, fresh);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, NodeThatIsNotUpIsNotConnectedTo) {
  Make();
  ShardMap map = Map(1, 2);
  map.nodes[1].incarnation = Incarnation(0);
  SetMap(map);
  EXPECT_EQ(reader_.sessions.size(), 1u);
  OpenAll();
  Begin(0, {200, 0}, milliseconds(50));
  AnswerAll();
  Advance(milliseconds(50));
  const Status& status = rows_.tickets[0].layers_done.at(0);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("m1"));
}

// A coordinator that was cut off may have said so of every node.
TEST_F(ReadSchedulerTest, NodesThatAreSaidToBeDownAreReadOnOverTheirSessions) {
  Make();
  SetMap(Map(1, 2));
  OpenAll();
  const ShardMap up = Map(1, 2);
  ShardMap map = up;
  map.epoch = Epoch(2);
  for (ShardMapNode& node : map.nodes) node.incarnation = Incarnation(0);
  SetMap(map);
  Begin(0, {20, 20});
  AnswerAll();
  ExpectAllTaken(0);
  // A session that ends meanwhile is opened again, to the same process.
  const SessionId ended = SessionOf("h1:1");
  Close(ended, StatusCode::kPeerLost);
  Advance(milliseconds(100));
  EXPECT_NE(SessionOf("h1:1"), ended);
  EXPECT_EQ(reader_.sessions[SessionOf("h1:1")].target.incarnation, up.nodes[1].incarnation);
  OpenAll();
  const size_t sessions = reader_.sessions.size();
  map = up;
  map.epoch = Epoch(3);
  SetMap(map);
  EXPECT_EQ(reader_.sessions.size(), sessions);
  Begin(1, {20, 20});
  AnswerAll();
  ExpectAllTaken(1);
}

TEST_F(ReadSchedulerTest, SlotWithoutANodeIsUnavailable) {
  Make();
  ShardMap map = Map(1, 1);
  for (NodeIndex& owner : map.owners) owner = kNoNode;
  SetMap(map);
  OpenAll();
  Begin(0, {2, 0}, milliseconds(50));
  Advance(milliseconds(50));
  const Status& status = rows_.tickets[0].layers_done.at(0);
  EXPECT_EQ(status.code(), StatusCode::kUnavailable);
  EXPECT_THAT(status.message(), ::testing::HasSubstr("no memory node holds slot"));
}

TEST_F(ReadSchedulerTest, SessionThatFallsSilentIsClosed) {
  options_.read_silence_max = milliseconds(300);
  Make();
  SetMap(Map(1, 1));
  OpenAll();
  Begin(0, {20, 0}, milliseconds(5000));
  const SessionId session = SessionOf("h0:1");
  Advance(milliseconds(299));
  EXPECT_FALSE(reader_.sessions[session].closing);
  Advance(milliseconds(1));
  EXPECT_TRUE(reader_.sessions[session].closing);
  Close(session, StatusCode::kCancelled);
  Advance(milliseconds(10));
  OpenAll();
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadSchedulerTest, NewerEpochIsAskedForOnce) {
  Make();
  SetMap(Map(3, 1));
  scheduler_->OnEpoch(Epoch(3));
  EXPECT_EQ(rows_.maps_wanted, 0u);
  scheduler_->OnEpoch(Epoch(4));
  EXPECT_EQ(rows_.maps_wanted, 1u);
}

TEST_F(ReadSchedulerTest, NothingToDoMeansNoTimer) {
  Make();
  SetMap(Map(1, 2));
  OpenAll();
  EXPECT_EQ(scheduler_->NextTick(), MonotonicTime::max());
  Begin(0, {10, 10});
  AnswerAll();
  EXPECT_EQ(scheduler_->NextTick(), MonotonicTime::max());
}

}  // namespace
}  // namespace engram
