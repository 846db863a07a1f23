// What holds for every way to read, over TCP and over shared memory.
#include <atomic>
#include <chrono>
#include <mutex>
#include <thread>

#include <gtest/gtest.h>

#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

class UcxWaysTest : public ::testing::TestWithParam<test::UcxSetting>, public test::UcxFixture {
 protected:
  UcxWaysTest() : UcxFixture(GetParam()) {}
  void SetUp() override { Start(); }
};

INSTANTIATE_TEST_SUITE_P(
    All, UcxWaysTest,
    ::testing::Values(test::UcxSetting{"TcpGather", "tcp", "off", ReadWay::kGather},
                      test::UcxSetting{"ShmGather", "shm", "off", ReadWay::kGather},
                      test::UcxSetting{"ShmMapped", "shm", "off", ReadWay::kMapped},
                      test::UcxSetting{"ShmOneSided", "shm", "shm", ReadWay::kOneSided},
                      test::UcxSetting{"TcpWithOneSided", "tcp", "shm", ReadWay::kOneSided},
                      test::UcxSetting{"ShmMappedThroughOneSidedKey", "shm", "shm",
                                       ReadWay::kMapped}),
    [](const auto& test) { return test.param.name; });

TEST_P(UcxWaysTest, SessionTakesTheForcedWay) {
  const SessionId session = OpenSession();
  EXPECT_EQ(events_->opened.at(session).way, GetParam().way);
  EXPECT_EQ(events_->opened.at(session).incarnation, test::kIncarnation);
  EXPECT_FALSE(events_->opened.at(session).reason.empty());
}

TEST_P(UcxWaysTest, RowsAreExactlyTheStoredOnesForEverySize) {
  const SessionId session = OpenSession();
  uint64_t tag = 0;
  for (const size_t count : {1u, 2u, 47u, 48u, 128u, 129u, 700u, 1536u, kReadRowsMax}) {
    const auto rows = OwnedRows(count, count);
    ASSERT_EQ(rows.size(), count);
    ExpectStored(Read(session, ++tag, rows), rows);
  }
}

TEST_P(UcxWaysTest, RowsNotOwnedAndOutOfRangeAreToldRowByRow) {
  const SessionId session = OpenSession();
  auto rows = test::SomeRows(*layout_, 300);
  const uint64_t last_slot = layout_->slot_count() - 1;
  rows.push_back(RowAddress(~uint64_t{0}));
  rows.push_back(RowAddress((last_slot + 1) << layout_->slot_shift()));
  // Behind the last row of a column's short last slot.
  const uint32_t short_rows = layout_->slot(SlotIndex(static_cast<uint32_t>(last_slot))).row_count;
  ASSERT_LT(short_rows, layout_->slot_rows());
  rows.push_back(RowAddress((last_slot << layout_->slot_shift()) + short_rows));
  const test::RecordedRead& read = Read(session, 1, rows);
  ASSERT_EQ(read.done, StatusCode::kOk);
  ASSERT_EQ(read.delivered, rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    if (i >= 300) {
      EXPECT_EQ(read.statuses[i], StatusCode::kInvalidArgument) << i;
    } else if (layout_->SlotOf(rows[i]).value() % 2 == 0) {
      EXPECT_EQ(read.rows[i], test::StoredRow(*layout_, test::kVersion, rows[i])) << i;
    } else {
      EXPECT_EQ(read.statuses[i], StatusCode::kNotOwned) << i;
    }
  }
  // A read's time is counted once its reply is sent, which may be here first.
  const MonotonicTime give_up = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  RowServerStats stats = server_->stats();
  while (stats.gather_times.count() != stats.reads && std::chrono::steady_clock::now() < give_up) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    stats = server_->stats();
  }
  EXPECT_EQ(stats.rows_out_of_range, 3u);
  EXPECT_GT(stats.rows_not_owned, 100u);
  EXPECT_GE(stats.bytes, stats.rows * layout_->row_stride());
  EXPECT_EQ(stats.gather_times.count(), stats.reads);
}

TEST_P(UcxWaysTest, ManyReadsInFlightAllComeAndTheWindowIsBounded) {
  const SessionId session = OpenSession();
  constexpr uint32_t kReads = 2000;
  const auto rows = OwnedRows(200);
  uint32_t posted = 0;
  uint32_t full = 0;
  const auto finished = [&] {
    uint32_t count = 0;
    for (const auto& [tag, read] : events_->reads) count += read.done.has_value();
    return count;
  };
  while (posted < kReads) {
    const size_t count = 1 + posted % rows.size();
    events_->Expect(posted, count);
    const StatusCode status =
        reader_->Post(session, posted, {rows.data(), count}, MonotonicTime::max());
    if (status == StatusCode::kResourceExhausted) {
      ++full;
      events_->reads.erase(posted);
      const uint32_t before = finished();
      ASSERT_TRUE(Drive([&] { return finished() > before; }));
      continue;
    }
    ASSERT_EQ(status, StatusCode::kOk);
    ++posted;
  }
  ASSERT_TRUE(Drive([&] { return finished() == kReads; }));
  EXPECT_GT(full, 0u);
  for (uint32_t i = 0; i < kReads; i += 97) {
    ExpectStored(events_->reads.at(i), {rows.begin(), rows.begin() + 1 + i % 200});
  }
  EXPECT_EQ(server_->stats().refused_messages, 0u);
}

// A thread that waits, and another one that borrows the reader from it: for whole reads, or to post
// what the waiting one is then woken for.
TEST_P(UcxWaysTest, AnotherThreadDrivesWhileOneWaits) {
  const SessionId session = OpenSession();
  const auto rows = OwnedRows(100);
  std::mutex mutex;
  std::atomic<bool> stop{false};
  std::thread waiting([&] {
    std::unique_lock driving(mutex);
    while (!stop) {
      if (!reader_->Progress()) reader_->Wait(MonotonicTime::max(), &driving);
    }
  });
  const auto done = [&](uint64_t tag) { return events_->reads.at(tag).done.has_value(); };
  constexpr uint64_t kReads = 300;
  for (uint64_t tag = 1; tag <= kReads; ++tag) {
    const size_t count = 1 + tag % rows.size();
    std::unique_lock driving(mutex);
    reader_->Borrow();
    events_->Expect(tag, count);
    ASSERT_EQ(reader_->Post(session, tag, {rows.data(), count}, MonotonicTime::max()),
              StatusCode::kOk);
    const bool whole = tag % 2 == 0;
    while (whole && !done(tag)) (void)reader_->Progress();
    if (!reader_->GiveBack(MonotonicTime::max())) reader_->Wake();
    while (!done(tag)) {
      driving.unlock();
      std::this_thread::sleep_for(std::chrono::microseconds(50));  // a mutex is not fair
      driving.lock();
    }
    ExpectStored(events_->reads.at(tag), {rows.begin(), rows.begin() + count});
  }
  stop = true;
  reader_->Wake();
  waiting.join();
}

TEST_P(UcxWaysTest, ClosedSessionCancelsReadsAndAnotherOpens) {
  const SessionId session = OpenSession();
  const auto rows = OwnedRows(64);
  for (uint64_t tag = 0; tag < 8; ++tag) {
    events_->Expect(tag, rows.size());
    ASSERT_EQ(reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
  }
  reader_->Close(session);
  ASSERT_TRUE(Drive([&] { return events_->closed.contains(session); }));
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kCancelled);
  for (uint64_t tag = 0; tag < 8; ++tag) EXPECT_TRUE(events_->reads.at(tag).done.has_value());
  EXPECT_EQ(reader_->Post(session, 100, rows, MonotonicTime::max()), StatusCode::kPeerLost);
  const SessionId again = OpenSession();
  ExpectStored(Read(again, 101, rows), rows);
  ASSERT_TRUE(Drive([&] { return server_->stats().sessions_open == 1; }));
}

TEST_P(UcxWaysTest, ServerThatGoesEndsReadsWithPeerLost) {
  const SessionId session = OpenSession();
  const auto rows = OwnedRows(64);
  ExpectStored(Read(session, 1, rows), rows);
  server_.reset();
  ASSERT_TRUE(Drive([&] { return events_->closed.contains(session); }));
  EXPECT_EQ(events_->closed.at(session).code(), StatusCode::kPeerLost);
  EXPECT_EQ(reader_->Post(session, 2, rows, MonotonicTime::max()), StatusCode::kPeerLost);
}

TEST_P(UcxWaysTest, ReaderThatGoesEndsItsSession) {
  const SessionId session = OpenSession();
  const auto rows = OwnedRows(64);
  events_->Expect(1, rows.size());
  ASSERT_EQ(reader_->Post(session, 1, rows, MonotonicTime::max()), StatusCode::kOk);
  reader_.reset();
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (server_->stats().sessions_open > 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_EQ(server_->stats().sessions_open, 0u);
}

TEST_P(UcxWaysTest, RestartedServerOnTheSamePortIsReadAgain) {
  OpenSession();
  const std::string address = server_->address();
  server_.reset();
  UcxRowServerOptions options = ServerOptions();
  options.listen_address = address;
  options.incarnation = Incarnation(0x9999);
  StartServer(options);
  const SessionId session = OpenSession();
  EXPECT_EQ(events_->opened.at(session).incarnation, Incarnation(0x9999));
  const auto rows = OwnedRows(300);
  ExpectStored(Read(session, 1, rows), rows);
}

}  // namespace
}  // namespace engram
