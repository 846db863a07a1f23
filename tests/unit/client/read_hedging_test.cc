// Late reads are asked of another replica too; nodes that hang or die hold nothing up.
#include <algorithm>

#include <gtest/gtest.h>

#include "client/read_scheduler.h"
#include "tests/unit/client/scheduler_fixture.h"

namespace engram {
namespace {

using std::chrono::milliseconds;

class ReadHedgingTest : public test::SchedulerFixture {
 protected:
  // Two nodes with every row, and enough reads answered at once that late means a millisecond.
  void MakeWarm(uint32_t nodes = 2, uint32_t replicas = 2) {
    Make();
    SetMap(Map(1, nodes, replicas));
    OpenAll();
    for (int i = 0; i < 50; ++i) {
      Begin(0, {20 * nodes, 0});
      AnswerAll();
      Begin(0, {2 * nodes, 0});
      AnswerAll();
    }
  }
  // Milliseconds until the ticket is done, or `most`; only reads at `addresses` are answered.
  int MillisecondsUntilDone(uint32_t slot, int most, const std::vector<std::string>& addresses) {
    for (int passed = 0; passed < most; ++passed) {
      for (int round = 0; round < 50; ++round) {  // windows are refilled within a millisecond
        for (const std::string& address : addresses) AnswerAllAt(address);
      }
      if (!rows_.tickets[slot].active) return passed;
      Advance(milliseconds(1));
    }
    return most;
  }
};

TEST_F(ReadHedgingTest, LateReadIsAskedOfTheOtherReplica) {
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  EXPECT_EQ(RowsAt("h0:1"), 20u);
  EXPECT_EQ(scheduler_->NextTick(), now_ + milliseconds(1));
  Advance(milliseconds(1));
  EXPECT_EQ(rows_.reads_hedged, 1u);
  EXPECT_EQ(RowsAt("h0:1"), 20u);
  EXPECT_EQ(RowsAt("h1:1"), 20u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, FirstAnswerWinsAndTheOtherIsDropped) {
  for (const bool hedge_first : {true, false}) {
    MakeWarm();
    Begin(0, {40, 0});
    AnswerAllAt("h1:1");
    Advance(milliseconds(1));
    const uint64_t won_before = rows_.hedges_won;
    AnswerAllAt(hedge_first ? "h1:1" : "h0:1");
    ExpectAllTaken(0);
    EXPECT_EQ(rows_.hedges_won - won_before, hedge_first ? 1u : 0u);
    // The loser's answer comes when the slot holds another batch.
    Begin(0, {40, 0}, milliseconds(1000), 77);
    AnswerAllAt(hedge_first ? "h0:1" : "h1:1");
    AnswerAll();
    ExpectAllTaken(0);
    EXPECT_EQ(rows_.reads_retried, 0u);
    EXPECT_EQ(rows_.maps_wanted, 0u);
    reader_ = test::ScriptedReader();
  }
}

TEST_F(ReadHedgingTest, RowsThatComeTwiceWithinABatchAreTakenOnce) {
  MakeWarm();
  Begin(0, {40, 0});
  ASSERT_EQ(reader_.reads.size(), 2u);
  const auto posted = reader_.reads;
  Advance(milliseconds(1));  // both are late: one is hedged at the node of the other
  ASSERT_EQ(reader_.reads.size(), 3u);
  for (const auto& [hedge, read] : std::map(reader_.reads)) {
    if (posted.contains(hedge)) continue;
    Answer(hedge);
    EXPECT_TRUE(rows_.tickets[0].active);
    for (const auto& [tag, original] : posted) {
      if (original.rows == read.rows) Answer(tag);  // RecordedRows fails if a row comes twice
    }
  }
  EXPECT_TRUE(rows_.tickets[0].active);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, LoserThatFailsChangesNothing) {
  MakeWarm();
  Begin(0, {40, 40});
  AnswerAllAt("h1:1");
  Advance(milliseconds(1));
  const std::vector<uint64_t> losers = ReadsAt("h0:1");
  AnswerAllAt("h1:1");
  ExpectAllTaken(0);
  Answer(losers.front(), {{0, StatusCode::kNotOwned}});
  EXPECT_EQ(rows_.reads_retried, 0u);
  EXPECT_EQ(rows_.maps_wanted, 0u);
}

TEST_F(ReadHedgingTest, LateRowsLeaveBeforeRowsThatWait) {
  options_.sessions.reads_in_flight_max = 2;
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Begin(1, {1000, 0}, milliseconds(1000), 5);  // fills the other replica's window
  Advance(milliseconds(1));
  EXPECT_EQ(rows_.reads_hedged, 1u);
  Answer(ReadsAt("h1:1").front());
  scheduler_->Pump(now_);
  Answer(ReadsAt("h1:1").front());
  scheduler_->Pump(now_);
  const auto& late_rows = reader_.reads.at(ReadsAt("h0:1").front()).rows;
  const auto tags = ReadsAt("h1:1");
  EXPECT_TRUE(std::any_of(tags.begin(), tags.end(),
                          [&](uint64_t tag) { return reader_.reads.at(tag).rows == late_rows; }));
  AnswerAll();
  ExpectAllTaken(0);
  ExpectAllTaken(1);
}

TEST_F(ReadHedgingTest, HedgeThatWasNotPostedIsForgottenWithItsBatch) {
  options_.sessions.reads_in_flight_max = 1;
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Begin(1, {300, 0}, milliseconds(1000), 5);
  Advance(milliseconds(1));  // the hedge waits for the other replica's window
  EXPECT_EQ(rows_.reads_hedged, 1u);
  AnswerAllAt("h0:1");
  ExpectAllTaken(0);
  Begin(0, {40, 0}, milliseconds(1000), 9);  // the same rows' numbers, another batch
  AnswerAll();
  ExpectAllTaken(0);
  ExpectAllTaken(1);
}

TEST_F(ReadHedgingTest, HedgesStayWithinTheirBudget) {
  options_.hedging.late_max = milliseconds(5);
  options_.zone = "near";
  Make();
  ShardMap map = Map(1, 2, 2);
  map.nodes[0].zone = "near";
  SetMap(map);
  OpenAll();
  // The near node answers a read every millisecond, but each only after the 16 before it.
  for (int i = 0; i < 5000; ++i) {
    if (!rows_.tickets[0].active) Begin(0, {2000, 0}, milliseconds(60000));
    const auto tags = ReadsAt("h0:1");
    if (!tags.empty()) Answer(tags.front());
    AnswerAllAt("h1:1");
    Advance(milliseconds(1));
  }
  EXPECT_GT(rows_.reads_hedged, 50u);
  EXPECT_LE(rows_.reads_hedged, 8 + reader_.reads_posted / 20);
}

TEST_F(ReadHedgingTest, SuspectedNodeGetsNoNewRowsUntilItAnswers) {
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(1));
  AnswerAllAt("h1:1");  // the hedge wins
  ExpectAllTaken(0);
  for (uint64_t i = 0; i < 5; ++i) {
    Begin(0, {40, 0}, milliseconds(1000), i);
    EXPECT_EQ(RowsAt("h0:1"), 20u) << "more than the read that is the probe";
    EXPECT_EQ(RowsAt("h1:1"), 40u);
    AnswerAllAt("h1:1");
    ExpectAllTaken(0);
    Advance(milliseconds(1));
  }
  AnswerAllAt("h0:1");
  Begin(0, {40, 0});
  EXPECT_GT(RowsAt("h0:1"), 0u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, SuspectedNodeIsAskedWhereNoOtherReplicaIsOpen) {
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(1));
  AnswerAllAt("h1:1");
  Close(SessionOf("h1:1"), StatusCode::kPeerLost);
  Begin(0, {40, 0}, milliseconds(1000), 3);
  EXPECT_EQ(RowsAt("h0:1"), 60u);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, NodeThatHangsHoldsNoBatchForAQuarterOfASecond) {
  Make();  // cold: nothing is known of how long reads take
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {1500, 1500});
  Begin(1, {1500, 1500}, milliseconds(1000), 2);
  EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h1:1"}), 60);
  EXPECT_LE(MillisecondsUntilDone(1, 1000, {"h1:1"}), 1);
  for (uint64_t i = 0; i < 300; ++i) {
    Begin(0, {500, 500}, milliseconds(1000), i);
    EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h1:1"}), 0);
    Advance(milliseconds(1));
  }
}

TEST_F(ReadHedgingTest, NodeThatHangsIsNoticedSoonByAReaderThatKnowsItsTimes) {
  MakeWarm();
  Begin(0, {1500, 1500});
  EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h1:1"}), 60);
  ExpectAllTaken(0);
  Begin(1, {40, 0});
  EXPECT_EQ(MillisecondsUntilDone(1, 1000, {"h1:1"}), 0);
}

TEST_F(ReadHedgingTest, ThirdReplicaIsAskedWhenTwoHang) {
  MakeWarm(3, 3);
  Begin(0, {90, 90});
  EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h2:1"}), 60);
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, RowsOfANodeKilledMidReadGoOnWithoutWaiting) {
  Make();
  SetMap(Map(1, 2, 2));
  OpenAll();
  Begin(0, {2000, 2000});
  Answer(ReadsAt("h0:1").front());
  Close(SessionOf("h0:1"), StatusCode::kPeerLost);
  scheduler_->Pump(now_);
  for (int i = 0; i < 100; ++i) AnswerAllAt("h1:1");
  ExpectAllTaken(0);  // and the clock has not moved
  EXPECT_EQ(rows_.reads_hedged, 0u);
}

TEST_F(ReadHedgingTest, OneReplicaIsNeverHedged) {
  MakeWarm(2, 1);
  Begin(0, {40, 0}, milliseconds(10000));
  const auto posted = reader_.reads.size();
  AnswerAllAt("h1:1");
  EXPECT_EQ(scheduler_->NextTick(), now_ + options_.read_silence_max);
  Live(milliseconds(500));
  EXPECT_EQ(rows_.reads_hedged, 0u);
  EXPECT_EQ(reader_.reads.size(), posted - 1);
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, HedgeThatFailsIsTriedAgain) {
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(1));
  ASSERT_EQ(ReadsAt("h1:1").size(), 1u);
  std::map<size_t, StatusCode> refused;
  for (size_t i = 0; i < 20; ++i) refused[i] = StatusCode::kNotOwned;
  Answer(ReadsAt("h1:1").front(), refused);
  scheduler_->Pump(now_);
  EXPECT_TRUE(ReadsAt("h1:1").empty());
  EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h1:1"}), 5);
  ExpectAllTaken(0);
  EXPECT_EQ(rows_.reads_hedged, 1u) << "a read counts once";
}

TEST_F(ReadHedgingTest, HedgedRowsSurviveTheEndOfEitherSession) {
  for (const char* lost : {"h0:1", "h1:1"}) {
    MakeWarm();
    Begin(0, {40, 0});
    AnswerAllAt("h1:1");
    Advance(milliseconds(1));
    Close(SessionOf(lost), StatusCode::kPeerLost);
    Live(milliseconds(3));
    AnswerAll();
    ExpectAllTaken(0);
    reader_ = test::ScriptedReader();
  }
}

TEST_F(ReadHedgingTest, EpochIsAcknowledgedOnlyAfterTheLoserIsDone) {
  MakeWarm();
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(1));
  AnswerAllAt("h1:1");
  ExpectAllTaken(0);
  SetMap(Map(2, 2, 2));
  EXPECT_EQ(reader_.sessions[SessionOf("h1:1")].acknowledged, Epoch(2));
  EXPECT_EQ(reader_.sessions[SessionOf("h0:1")].acknowledged, Epoch(1));
  AnswerAllAt("h0:1");
  EXPECT_EQ(reader_.sessions[SessionOf("h0:1")].acknowledged, Epoch(2));
}

TEST_F(ReadHedgingTest, SchedulerThatSleptBlamesNobody) {
  MakeWarm();
  Begin(0, {40, 0});
  Advance(milliseconds(40));  // one Tick only
  EXPECT_EQ(rows_.reads_hedged, 0u);
  EXPECT_EQ(scheduler_->NextTick(), now_ + milliseconds(1));
  AnswerAll();
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, NewReplicaInTheMapIsAskedForWhatIsLate) {
  MakeWarm(2, 1);
  Begin(0, {40, 0});
  AnswerAllAt("h1:1");
  Advance(milliseconds(5));
  SetMap(Map(2, 2, 2));
  EXPECT_LE(MillisecondsUntilDone(0, 1000, {"h1:1"}), 60);
  ExpectAllTaken(0);
}

TEST_F(ReadHedgingTest, NothingInFlightMeansNoTimer) {
  MakeWarm();
  EXPECT_EQ(scheduler_->NextTick(), MonotonicTime::max());
  EXPECT_EQ(rows_.reads_hedged, 0u);
}

}  // namespace
}  // namespace engram
