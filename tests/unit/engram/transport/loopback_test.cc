#include <gtest/gtest.h>

#include "engram/transport/loopback/loopback_network.h"
#include "tests/unit/engram/transport/recorded_events.h"
#include "tests/unit/engram/transport/small_table.h"

namespace engram {
namespace {

constexpr TableVersion kVersion(7);
const char* const kAddress = "node:1";

class LoopbackTest : public ::testing::Test {
 protected:
  void SetUp() override {
    layout_ = test::SmallLayout();
    server_ = network_.CreateServer(kAddress, Incarnation(5));
    slots_ = test::FillSlots(*server_, kVersion, layout_, [](uint32_t s) { return s % 2 == 0; });
    server_->Serve(slots_);
    events_.emplace(layout_->row_stride());
    reader_ = network_.CreateTransport()->CreateReader(&*events_).value();
  }

  SessionId OpenSession() {
    const SessionId session = reader_->Open(test::TargetOf(kAddress, kVersion, *layout_));
    EXPECT_TRUE(events_->opened.empty());
    reader_->Progress();
    EXPECT_TRUE(events_->opened.contains(session));
    return session;
  }
  void Post(SessionId session, uint64_t tag, const std::vector<RowAddress>& rows) {
    events_->Expect(tag, rows.size());
    ASSERT_EQ(reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
  }

  ManualClock clock_;
  LoopbackNetwork network_{clock_};
  std::shared_ptr<const TableLayout> layout_;
  std::unique_ptr<RowServer> server_;
  std::shared_ptr<ServedSlots> slots_;
  std::optional<test::RecordedEvents> events_;
  std::unique_ptr<RowReader> reader_;
};

TEST_F(LoopbackTest, RowsOfOwnedSlotsComeAsStoredAndOthersAreNotOwned) {
  const SessionId session = OpenSession();
  auto rows = test::SomeRows(*layout_, 500);
  rows.push_back(RowAddress(~uint64_t{0}));
  Post(session, 1, rows);
  reader_->Progress();
  const test::RecordedRead& read = events_->reads.at(1);
  ASSERT_EQ(read.done, StatusCode::kOk);
  EXPECT_EQ(read.delivered, rows.size());
  EXPECT_EQ(read.delivered_twice, 0u);
  for (size_t i = 0; i + 1 < rows.size(); ++i) {
    if (layout_->SlotOf(rows[i]).value() % 2 == 0) {
      ASSERT_EQ(read.statuses[i], StatusCode::kOk);
      ASSERT_EQ(read.rows[i], test::StoredRow(*layout_, kVersion, rows[i]));
    } else {
      ASSERT_EQ(read.statuses[i], StatusCode::kNotOwned);
    }
  }
  EXPECT_EQ(read.statuses.back(), StatusCode::kInvalidArgument);
}

TEST_F(LoopbackTest, LostNodeEndsReadsThenSession) {
  const SessionId session = OpenSession();
  Post(session, 1, test::SomeRows(*layout_, 3));
  network_.Lose(kAddress);
  reader_->Progress();
  EXPECT_EQ(events_->reads.at(1).done, StatusCode::kPeerLost);
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kPeerLost);
  EXPECT_EQ(reader_->Post(session, 2, test::SomeRows(*layout_, 1), MonotonicTime::max()),
            StatusCode::kPeerLost);
  const SessionId again = reader_->Open(test::TargetOf(kAddress, kVersion, *layout_));
  reader_->Progress();
  EXPECT_EQ(events_->closed.at(again).code(), StatusCode::kUnavailable);
}

TEST_F(LoopbackTest, RestartedNodeIsAnotherIncarnation) {
  const SessionId session = OpenSession();
  auto second = network_.CreateServer(kAddress, Incarnation(6));
  second->Serve(slots_);
  reader_->Progress();
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kPeerLost);
  NodeTarget target = test::TargetOf(kAddress, kVersion, *layout_);
  target.incarnation = Incarnation(5);
  const SessionId stale = reader_->Open(target);
  target.incarnation = Incarnation(6);
  const SessionId fresh = reader_->Open(target);
  reader_->Progress();
  EXPECT_EQ(events_->closed.at(stale).code(), StatusCode::kWrongIncarnation);
  EXPECT_EQ(events_->opened.at(fresh).incarnation, Incarnation(6));
}

TEST_F(LoopbackTest, AnotherModelVersionOrLayoutIsRefused) {
  NodeTarget target = test::TargetOf(kAddress, kVersion, *layout_);
  target.identity[0] ^= 1;
  const SessionId wrong_model = reader_->Open(target);
  target = test::TargetOf(kAddress, TableVersion(8), *layout_);
  const SessionId wrong_version = reader_->Open(target);
  target = test::TargetOf(kAddress, kVersion, *layout_);
  ++target.row_stride;
  const SessionId wrong_stride = reader_->Open(target);
  reader_->Progress();
  EXPECT_EQ(events_->closed.at(wrong_model).code(), StatusCode::kWrongModel);
  EXPECT_EQ(events_->closed.at(wrong_version).code(), StatusCode::kWrongVersion);
  EXPECT_EQ(events_->closed.at(wrong_stride).code(), StatusCode::kWrongModel);
}

TEST_F(LoopbackTest, HeldNodeAnswersAfterRelease) {
  const SessionId session = OpenSession();
  network_.Hold(kAddress);
  Post(session, 1, test::SomeRows(*layout_, 3));
  EXPECT_FALSE(reader_->Progress());
  network_.Release(kAddress);
  EXPECT_TRUE(reader_->Progress());
  EXPECT_EQ(events_->reads.at(1).done, StatusCode::kOk);
}

TEST_F(LoopbackTest, DelayedReadComesWhenItsTimeHasCome) {
  const SessionId session = OpenSession();
  network_.SetDelay(kAddress, std::chrono::milliseconds(5));
  Post(session, 1, test::SomeRows(*layout_, 3));
  clock_.Advance(std::chrono::milliseconds(4));
  reader_->Progress();
  EXPECT_FALSE(events_->reads.at(1).done.has_value());
  clock_.Advance(std::chrono::milliseconds(1));
  reader_->Progress();
  EXPECT_EQ(events_->reads.at(1).done, StatusCode::kOk);
}

TEST_F(LoopbackTest, CorruptedRowFailsItsCheckAndOnlyThatRow) {
  const SessionId session = OpenSession();
  const RowAddress address(0);
  network_.CorruptRows(kAddress, 1);
  Post(session, 1, {address, address});
  reader_->Progress();
  const auto& rows = events_->reads.at(1).rows;
  EXPECT_FALSE(VerifyRow(kVersion, 1, RowId(0), rows[0].data(), layout_->row_bytes()));
  EXPECT_TRUE(VerifyRow(kVersion, 1, RowId(0), rows[1].data(), layout_->row_bytes()));
}

TEST_F(LoopbackTest, RefusedSessionsAndFailedReadsTellTheCode) {
  const SessionId session = OpenSession();
  network_.FailReads(kAddress, 1, StatusCode::kResourceExhausted);
  Post(session, 1, {RowAddress(0)});
  Post(session, 2, {RowAddress(0)});
  network_.RefuseSessions(kAddress, StatusCode::kUnavailable);
  const SessionId refused = reader_->Open(test::TargetOf(kAddress, kVersion, *layout_));
  reader_->Progress();
  EXPECT_EQ(events_->reads.at(1).done, StatusCode::kResourceExhausted);
  EXPECT_EQ(events_->reads.at(2).done, StatusCode::kOk);
  EXPECT_EQ(events_->closed.at(refused).code(), StatusCode::kUnavailable);
}

TEST_F(LoopbackTest, WindowIsBounded) {
  const SessionId session = OpenSession();
  for (uint32_t i = 0; i < kReadsInFlightMax; ++i) Post(session, i, {RowAddress(0)});
  const std::vector<RowAddress> one = {RowAddress(0)};
  EXPECT_EQ(reader_->Post(session, 1000, one, MonotonicTime::max()),
            StatusCode::kResourceExhausted);
  reader_->Progress();
  events_->Expect(1000, 1);
  EXPECT_EQ(reader_->Post(session, 1000, one, MonotonicTime::max()), StatusCode::kOk);
}

TEST_F(LoopbackTest, ClosedSessionCancelsItsReads) {
  const SessionId session = OpenSession();
  Post(session, 1, {RowAddress(0)});
  reader_->Close(session);
  EXPECT_FALSE(events_->closed.contains(session));
  reader_->Progress();
  EXPECT_EQ(events_->reads.at(1).done, StatusCode::kCancelled);
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kCancelled);
  EXPECT_EQ(server_->stats().sessions_open, 0u);
}

TEST_F(LoopbackTest, NewerEpochIsToldOnceUntilNewerStill) {
  const SessionId session = OpenSession();
  slots_->set_newest_epoch(Epoch(3));
  Post(session, 1, {RowAddress(0)});
  reader_->Progress();
  EXPECT_EQ(events_->epochs.at(session), Epoch(3));
  events_->epochs.clear();
  reader_->AcknowledgeEpoch(session, Epoch(3));
  Post(session, 2, {RowAddress(0)});
  reader_->Progress();
  EXPECT_TRUE(events_->epochs.empty());
}

TEST_F(LoopbackTest, DroppedVersionEndsItsSessions) {
  const SessionId session = OpenSession();
  server_->Drop(kVersion);
  reader_->Progress();
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kWrongVersion);
}

}  // namespace
}  // namespace engram
