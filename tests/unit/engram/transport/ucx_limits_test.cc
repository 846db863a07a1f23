// What a node does when readers ask for more than it can send, or do not take what they asked for.
#include <chrono>
#include <cstdlib>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include "tests/support/rude_peer.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

constexpr auto kPatience = std::chrono::seconds(60);

template <typename Done>
bool Eventually(Done done) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!done() && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return done();
}

// Another client of the fixture's node.
struct OtherReader {
  explicit OtherReader(test::UcxFixture* fixture)
      : transport(UcxTransport::Create(fixture->ReaderOptions()).value()),
        events(fixture->layout_->row_stride()),
        reader(transport->CreateReader(&events).value()),
        session(reader->Open(fixture->Target())) {
    EXPECT_TRUE(Drive([this] { return events.opened.contains(session); }));
  }
  void Post(uint64_t tag, const std::vector<RowAddress>& rows,
            MonotonicTime wanted_by = MonotonicTime::max()) {
    events.Expect(tag, rows.size());
    ASSERT_EQ(reader->Post(session, tag, rows, wanted_by), StatusCode::kOk);
  }
  template <typename Done>
  bool Drive(Done done) {
    return test::DriveUntil(*reader, done, kPatience);
  }
  bool DriveAll() {
    return Drive([this] {
      for (const auto& [tag, read] : events.reads) {
        if (!read.done.has_value()) return false;
      }
      return true;
    });
  }

  std::unique_ptr<Transport> transport;
  test::RecordedEvents events;
  std::unique_ptr<RowReader> reader;
  SessionId session;
};

class UcxLimitsTest : public ::testing::TestWithParam<const char*> {
 protected:
  test::UcxFixture f_{{"", GetParam(), "off", ReadWay::kGather}};
};
INSTANTIATE_TEST_SUITE_P(Over, UcxLimitsTest, ::testing::Values("tcp", "shm"));

// Many reads of a client that takes no replies for now: what does not fit is refused with a time to
// come back after, by a message of its own; the rest is answered when it takes them.
TEST_P(UcxLimitsTest, WhatDoesNotFitIsRefusedWithATime) {
  UcxRowServerOptions options = f_.ServerOptions();
  options.waiting_rows_max = 4 * kReadRowsMax;
  f_.StartServer(options);
  f_.StartReader(f_.ReaderOptions());
  OtherReader greedy(&f_);
  const auto rows = f_.OwnedRows(kReadRowsMax);
  for (uint64_t tag = 0; tag < kReadsInFlightMax; ++tag) greedy.Post(tag, rows);
  // It sends on by its own progress: requests leave, replies wait in the sockets.
  uint64_t refused = 0;
  ASSERT_TRUE(greedy.DriveAll());
  for (const auto& [tag, read] : greedy.events.reads) {
    if (read.done == StatusCode::kResourceExhausted) {
      ++refused;
      EXPECT_EQ(read.delivered, 0u);
    } else {
      f_.ExpectStored(read, rows);
    }
  }
  const RowServerStats stats = f_.server_->stats();
  EXPECT_EQ(stats.refused_busy, refused);
  EXPECT_GT(refused, 0u);
  EXPECT_LT(refused, uint64_t{kReadsInFlightMax});
  EXPECT_GE(greedy.events.busy.at(greedy.session), std::chrono::microseconds(500));
  EXPECT_EQ(stats.refused_messages, 0u);  // nothing was wrong with them
  EXPECT_TRUE(Eventually([&] { return f_.server_->stats().rows_waiting == 0; }));
  // The session is as good as before.
  greedy.Post(1000, rows);
  ASSERT_TRUE(greedy.DriveAll());
  f_.ExpectStored(greedy.events.reads.at(1000), rows);
}

TEST_P(UcxLimitsTest, WhoTakesNoAnswersIsCutOffAndStarvesNoOther) {
  UcxRowServerOptions options = f_.ServerOptions();
  options.slow_reader_max = std::chrono::milliseconds(1000);
  f_.StartServer(options);
  f_.StartReader(f_.ReaderOptions());
  const auto rows = f_.OwnedRows(kReadRowsMax);
  OtherReader stuck(&f_);
  for (uint64_t tag = 0; tag < kReadsInFlightMax; ++tag) stuck.Post(tag, rows);
  ASSERT_TRUE(stuck.Drive([&] { return stuck.events.reads.at(0).done.has_value(); }));
  const SessionId session = f_.OpenSession();
  uint64_t tag = 1;
  ASSERT_TRUE(Eventually([&] {
    f_.ExpectStored(f_.Read(session, tag, rows), rows);
    ++tag;
    return f_.server_->stats().slow_readers == 1;
  }));
  EXPECT_TRUE(Eventually([&] { return f_.server_->stats().sessions_open == 1; }));
  // What it learns when it looks again.
  ASSERT_TRUE(stuck.DriveAll());
  EXPECT_TRUE(stuck.Drive([&] { return stuck.events.closed.contains(stuck.session); }));
  f_.ExpectStored(f_.Read(session, tag, rows), rows);
}

TEST_P(UcxLimitsTest, AServerEndsBesideReadersThatTakeNoAnswers) {
  f_.StartServer(f_.ServerOptions());
  const auto rows = f_.OwnedRows(kReadRowsMax);
  std::vector<std::unique_ptr<OtherReader>> stuck;
  for (int i = 0; i < 2; ++i) stuck.push_back(std::make_unique<OtherReader>(&f_));
  for (const auto& reader : stuck) {
    for (uint64_t tag = 0; tag < kReadsInFlightMax; ++tag) reader->Post(tag, rows);
    ASSERT_TRUE(reader->Drive([&] { return reader->events.reads.at(0).done.has_value(); }));
  }
  ASSERT_EQ(f_.server_->stats().sessions_open, 2u);
  f_.server_.reset();
  for (const auto& reader : stuck) {
    ASSERT_TRUE(reader->DriveAll());
    EXPECT_TRUE(reader->Drive([&] { return reader->events.closed.contains(reader->session); }));
  }
}

// Reads of a client that comes back too late for some of its answers.
TEST(UcxLimitsTcpTest, WhatIsWantedNoMoreIsNotSent) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  OtherReader slow(&f);
  const auto rows = f.OwnedRows(kReadRowsMax);
  const auto wanted_by = std::chrono::steady_clock::now() + std::chrono::milliseconds(100);
  for (uint64_t tag = 0; tag < kReadsInFlightMax; ++tag) slow.Post(tag, rows, wanted_by);
  std::this_thread::sleep_for(std::chrono::milliseconds(150));
  ASSERT_TRUE(slow.DriveAll());
  uint64_t expired = 0;
  for (const auto& [tag, read] : slow.events.reads) {
    if (read.done == StatusCode::kDeadlineExceeded) {
      ++expired;
      EXPECT_EQ(read.delivered, 0u);
    } else {
      f.ExpectStored(read, rows);
    }
  }
  EXPECT_EQ(f.server_->stats().expired, expired);
  EXPECT_GT(expired, 0u);
}

// Sessions that name addresses by the hundred, to have all the room for them or to open the ports.
TEST(UcxLimitsTcpTest, AddressesThatDataMayComeFromAreBounded) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  std::vector<std::unique_ptr<test::RudePeer>> peers;
  const auto open = [&](int number) {
    test::RudePeer::Options options;
    for (int i = 0; i < 250; ++i) {
      options.data_hosts.push_back("10." + std::to_string(number) + ".0." + std::to_string(i));
    }
    auto peer = test::RudePeer::Create(f.Target(), options);
    if (!peer.has_value()) return peer.error();
    peers.push_back(*std::move(peer));
    return Status();
  };
  for (int number = 0; number < 4; ++number) ASSERT_TRUE(open(number).ok());
  const Status refused = open(4);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_NE(refused.message().find("addresses"), std::string::npos) << refused.ToString();
  ASSERT_TRUE(open(3).ok());  // the same ones again
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(10);
  f.ExpectStored(f.Read(session, 1, rows), rows);
  // Those of sessions that are over are free.
  peers.erase(peers.begin());
  EXPECT_TRUE(Eventually([&] { return open(4).ok(); }));
}

// Requests fill the socket of a node that stands still; the reader gives it up, and the node comes
// back later and ends what is left of that session. (It ended the reader.)
TEST(UcxLimitsTcpTest, AReaderOutlivesAServerThatStoodStill) {
  // Else it would take them all. For this process, which is this test's.
  ASSERT_EQ(::setenv("UCX_TCP_SNDBUF", "128k", /*overwrite=*/1), 0);
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  UcxRowServerOptions server = f.ServerOptions();
  server.slow_reader_max = std::chrono::milliseconds(200);
  f.StartServer(server);
  UcxTransportOptions options = f.ReaderOptions();
  options.keep_alive = std::chrono::milliseconds(300);
  f.StartReader(options);
  ASSERT_EQ(::unsetenv("UCX_TCP_SNDBUF"), 0);
  const auto rows = f.OwnedRows(kReadRowsMax);
  const SessionId session = f.OpenSession();
  f.PauseServer();
  for (uint64_t tag = 0; tag < kReadsInFlightMax; ++tag) {
    f.events_->Expect(tag, rows.size());
    ASSERT_EQ(f.reader_->Post(session, tag, rows, MonotonicTime::max()), StatusCode::kOk);
  }
  ASSERT_TRUE(f.Drive([&] { return f.events_->closed.contains(session); }));
  f.hooks_.paused = false;
  (void)test::DriveUntil(
      *f.reader_, [] { return false; }, std::chrono::seconds(3));
  const SessionId again = f.OpenSession();
  f.ExpectStored(f.Read(again, 1000, rows), rows);
}

TEST(UcxLimitsOptionsTest, TooLittleRoomIsRefused) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  UcxRowServerOptions options = f.ServerOptions();
  options.waiting_rows_max = 100;
  const auto server = UcxRowServer::Create(options);
  ASSERT_FALSE(server.has_value());
  EXPECT_EQ(server.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(server.error().message().find("waiting rows"), std::string::npos);
}

}  // namespace
}  // namespace engram
