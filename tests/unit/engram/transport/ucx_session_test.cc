// Sessions over UCX: refusals, leases, signs of life, versions, the choice of a way.
#include <cstdlib>

#include <gtest/gtest.h>

#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

constexpr test::UcxSetting kTcpGather{"", "tcp", "off", ReadWay::kGather};
constexpr test::UcxSetting kShmMapped{"", "shm", "off", ReadWay::kMapped};

struct UcxSessionTest : ::testing::Test {};

TEST_F(UcxSessionTest, AnotherModelVersionIncarnationOrLayoutIsRefusedByName) {
  test::UcxFixture f(kTcpGather);
  f.Start();
  NodeTarget target = f.Target();
  target.identity[3] ^= 1;
  EXPECT_EQ(f.Refusal(target).code(), StatusCode::kWrongModel);
  target = f.Target();
  target.version = TableVersion(8);
  EXPECT_EQ(f.Refusal(target).code(), StatusCode::kWrongVersion);
  target = f.Target();
  target.incarnation = Incarnation(99);
  EXPECT_EQ(f.Refusal(target).code(), StatusCode::kWrongIncarnation);
  target = f.Target();
  target.row_stride += 4;
  const Status layout = f.Refusal(target);
  EXPECT_EQ(layout.code(), StatusCode::kWrongModel);
  EXPECT_NE(layout.message().find("stride"), std::string::npos);
  EXPECT_EQ(f.server_->stats().refused_sessions, 4u);
  EXPECT_EQ(f.server_->stats().sessions_open, 0u);
}

// UCX itself would write past the smaller one's buffers.
TEST_F(UcxSessionTest, AnotherSegmentOfTcpIsRefusedByName) {
  test::UcxFixture f(kTcpGather);
  f.StartServer(f.ServerOptions());
  const std::string segment = UcxTcpSegment();
  ::setenv("UCX_TCP_RX_SEG_SIZE", "64k", 1);
  f.StartReader(f.ReaderOptions());
  ::setenv("UCX_TCP_RX_SEG_SIZE", segment.c_str(), 1);
  const Status status = f.Refusal(f.Target());
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("UCX_TCP_RX_SEG_SIZE is '64k', the node's '" + segment + "'"),
            std::string::npos)
      << status.ToString();
}

TEST_F(UcxSessionTest, NobodyListeningIsUnavailable) {
  test::UcxFixture f(kTcpGather);
  f.Start();
  NodeTarget target = f.Target();
  f.server_.reset();
  EXPECT_EQ(f.Refusal(target).code(), StatusCode::kUnavailable);
}

TEST_F(UcxSessionTest, WayThatIsForcedAndImpossibleIsRefusedWithTheReason) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kMapped});
  f.Start();
  const Status status = f.Refusal(f.Target());
  EXPECT_EQ(status.code(), StatusCode::kFailedPrecondition);
  EXPECT_NE(status.message().find("mapped"), std::string::npos);
}

TEST_F(UcxSessionTest, TcpSessionsNeverShareMemory) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kAuto});
  f.Start();
  const SessionId session = f.OpenSession();
  EXPECT_EQ(f.events_->opened.at(session).way, ReadWay::kGather);
  EXPECT_NE(f.events_->opened.at(session).reason.find("mapped"), std::string::npos);
}

TEST_F(UcxSessionTest, AutoTakesAWayThatWorksAndSaysWhatItMeasured) {
  test::UcxFixture f({"", "shm", "shm", ReadWay::kAuto});
  f.Start();
  const SessionId session = f.OpenSession();
  const SessionInfo& info = f.events_->opened.at(session);
  EXPECT_NE(info.reason.find("gather: "), std::string::npos) << info.reason;
  EXPECT_NE(info.reason.find("mapped: "), std::string::npos) << info.reason;
  EXPECT_NE(info.reason.find("one-sided: "), std::string::npos) << info.reason;
  const auto rows = f.OwnedRows(1000);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

TEST_F(UcxSessionTest, NodeWithoutLeasesIsGathered) {
  test::UcxFixture f({"", "shm", "off", ReadWay::kAuto});
  UcxRowServerOptions options = f.ServerOptions();
  options.lease = std::chrono::milliseconds(0);
  f.StartServer(options);
  f.StartReader(f.ReaderOptions());
  const SessionId session = f.OpenSession();
  EXPECT_EQ(f.events_->opened.at(session).way, ReadWay::kGather);
  const auto rows = f.OwnedRows(100);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

TEST_F(UcxSessionTest, MappedReadsNeedNoGatherWhileTheLeaseRuns) {
  test::UcxFixture f(kShmMapped);
  f.Start();
  const SessionId session = f.OpenSession();
  const uint64_t before = f.server_->stats().reads;
  const auto rows = f.OwnedRows(1000);
  f.ExpectStored(f.Read(session, 1, rows), rows);
  EXPECT_EQ(f.server_->stats().reads, before);
}

class UcxLeaseTest : public ::testing::TestWithParam<test::UcxSetting> {};
INSTANTIATE_TEST_SUITE_P(
    Ways, UcxLeaseTest,
    ::testing::Values(test::UcxSetting{"Mapped", "shm", "off", ReadWay::kMapped},
                      test::UcxSetting{"OneSided", "shm", "shm", ReadWay::kOneSided}),
    [](const auto& test) { return test.param.name; });

TEST_P(UcxLeaseTest, LeaseThatEndedMakesReadsGatherUntilThereIsANewOne) {
  test::UcxFixture f(GetParam());
  UcxRowServerOptions options = f.ServerOptions();
  options.lease = std::chrono::milliseconds(300);
  f.StartServer(options);
  f.StartReader(f.ReaderOptions());
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(700);
  f.hooks_.withhold_leases = true;
  const auto lease_end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  f.Drive([&] { return std::chrono::steady_clock::now() > lease_end; });
  uint64_t gathers = f.server_->stats().reads;
  f.ExpectStored(f.Read(session, 1, rows), rows);
  EXPECT_EQ(f.server_->stats().reads, gathers + 1);

  f.hooks_.withhold_leases = false;
  uint64_t tag = 1;
  EXPECT_TRUE(f.Drive([&] {
    gathers = f.server_->stats().reads;
    f.Read(session, ++tag, rows);
    return f.server_->stats().reads == gathers;
  }));
  f.ExpectStored(f.events_->reads.at(tag), rows);
}

TEST_P(UcxLeaseTest, PausedNodeIsReadNoLongerThanItsLease) {
  test::UcxFixture f(GetParam());
  UcxRowServerOptions options = f.ServerOptions();
  options.lease = std::chrono::milliseconds(300);
  f.StartServer(options);
  f.StartReader(f.ReaderOptions());
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(200);
  f.PauseServer();
  const auto lease_end = std::chrono::steady_clock::now() + std::chrono::milliseconds(700);
  f.Drive([&] { return std::chrono::steady_clock::now() > lease_end; });
  f.events_->Expect(1, rows.size());
  ASSERT_EQ(f.reader_->Post(session, 1, rows, MonotonicTime::max()), StatusCode::kOk);
  const auto later = std::chrono::steady_clock::now() + std::chrono::milliseconds(50);
  f.Drive([&] { return std::chrono::steady_clock::now() > later; });
  EXPECT_EQ(f.events_->reads.at(1).delivered, 0u);
  f.hooks_.paused = false;
  ASSERT_TRUE(f.Drive([&] { return f.events_->reads.at(1).done.has_value(); }));
  f.ExpectStored(f.events_->reads.at(1), rows);
}

TEST_F(UcxSessionTest, NodeThatAnswersNothingIsLost) {
  test::UcxFixture f(kTcpGather);
  f.StartServer(f.ServerOptions());
  UcxTransportOptions options = f.ReaderOptions();
  options.keep_alive = std::chrono::milliseconds(300);
  f.StartReader(options);
  const SessionId session = f.OpenSession();
  f.PauseServer();
  const auto rows = f.OwnedRows(10);
  f.events_->Expect(1, rows.size());
  ASSERT_EQ(f.reader_->Post(session, 1, rows, MonotonicTime::max()), StatusCode::kOk);
  ASSERT_TRUE(f.Drive([&] { return f.events_->closed.contains(session); }));
  EXPECT_EQ(f.events_->closed.at(session).code(), StatusCode::kPeerLost);
  EXPECT_EQ(f.events_->reads.at(1).done, StatusCode::kPeerLost);
  f.hooks_.paused = false;
  const SessionId again = f.OpenSession();
  f.ExpectStored(f.Read(again, 2, rows), rows);
}

// UCX asserts at a node whose reader goes before it has been answered over its new connection: a
// reader that goes waits for that.
TEST_F(UcxSessionTest, ReadersThatGoWhileTheyConnectEndNoNode) {
  test::UcxFixture f(kTcpGather);
  f.Start();
  for (int i = 0; i < 200; ++i) {
    const auto transport = UcxTransport::Create(f.ReaderOptions()).value();
    test::RecordedEvents events(f.layout_->row_stride());
    const auto reader = transport->CreateReader(&events).value();
    const SessionId session = reader->Open(f.Target());
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(20) * i;
    while (std::chrono::steady_clock::now() < until) reader->Progress();
    if (i % 2 == 0) reader->Close(session);
  }
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(10);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

TEST_F(UcxSessionTest, ReaderThatSleptKeepsItsSession) {
  test::UcxFixture f(kShmMapped);
  f.StartServer(f.ServerOptions());
  UcxTransportOptions options = f.ReaderOptions();
  options.keep_alive = std::chrono::milliseconds(300);
  f.StartReader(options);
  const SessionId session = f.OpenSession();
  std::this_thread::sleep_for(std::chrono::milliseconds(1000));
  const auto rows = f.OwnedRows(10);
  f.ExpectStored(f.Read(session, 1, rows), rows);
  EXPECT_TRUE(f.events_->closed.empty());
}

TEST_F(UcxSessionTest, DroppedVersionEndsItsSessionsByName) {
  test::UcxFixture f(kTcpGather);
  f.Start();
  const SessionId session = f.OpenSession();
  f.server_->Drop(test::kVersion);
  ASSERT_TRUE(f.Drive([&] { return f.events_->closed.contains(session); }));
  EXPECT_EQ(f.events_->closed.at(session).code(), StatusCode::kWrongVersion);
  EXPECT_EQ(f.Refusal(f.Target()).code(), StatusCode::kWrongVersion);
}

TEST_F(UcxSessionTest, ReplacedSlotsAreReadByOpenSessions) {
  for (const test::UcxSetting& setting : {kTcpGather, kShmMapped}) {
    test::UcxFixture f(setting);
    f.Start();
    const SessionId session = f.OpenSession();
    f.server_->Serve(
        test::FillSlots(*f.server_, test::kVersion, f.layout_, [](uint32_t) { return true; }));
    const auto rows = test::SomeRows(*f.layout_, 500);
    f.ExpectStored(f.Read(session, 1, rows), rows);
  }
}

TEST_F(UcxSessionTest, NewerEpochIsToldAndAcknowledgedOnesAreKnownToTheNode) {
  test::UcxFixture f(kShmMapped);
  f.StartServer(f.ServerOptions());
  UcxTransportOptions options = f.ReaderOptions();
  options.keep_alive = std::chrono::milliseconds(600);
  f.StartReader(options);
  const SessionId session = f.OpenSession();
  EXPECT_TRUE(f.server_->AllAcknowledged(TableVersion(1), Epoch(9)));
  f.slots_->set_newest_epoch(Epoch(4));
  ASSERT_TRUE(f.Drive([&] { return f.events_->epochs.contains(session); }));
  EXPECT_EQ(f.events_->epochs.at(session), Epoch(4));
  EXPECT_FALSE(f.server_->AllAcknowledged(test::kVersion, Epoch(4)));
  f.reader_->AcknowledgeEpoch(session, Epoch(4));
  EXPECT_TRUE(f.Drive([&] { return f.server_->AllAcknowledged(test::kVersion, Epoch(4)); }));
  EXPECT_FALSE(f.server_->AllAcknowledged(test::kVersion, Epoch(5)));
}

TEST_F(UcxSessionTest, LeaseOutlivesItsSession) {
  test::UcxFixture f(kShmMapped);
  UcxRowServerOptions options = f.ServerOptions();
  options.lease = std::chrono::minutes(1);
  f.StartServer(options);
  f.StartReader(f.ReaderOptions());
  f.OpenSession();
  f.reader_.reset();
  while (f.server_->stats().sessions_open > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_FALSE(f.server_->AllAcknowledged(test::kVersion, Epoch(1)));
}

TEST_F(UcxSessionTest, TwoReadersAndTwoGatherThreadsServeEachItsRows) {
  test::UcxFixture f(kTcpGather);
  UcxRowServerOptions options = f.ServerOptions();
  options.gather_threads = 2;
  f.StartServer(options);
  f.StartReader(f.ReaderOptions());
  const SessionId one = f.OpenSession();
  const SessionId two = f.OpenSession();
  const auto rows = f.OwnedRows(400);
  const auto others = f.OwnedRows(400, 5);
  f.ExpectStored(f.Read(one, 1, rows), rows);
  f.ExpectStored(f.Read(two, 2, others), others);
  EXPECT_EQ(f.server_->stats().sessions_open, 2u);
}

TEST_F(UcxSessionTest, BadOptionsAreNamed) {
  UcxRowServerOptions server;
  EXPECT_EQ(UcxRowServer::Create(server).error().code(), StatusCode::kInvalidArgument);
  server.incarnation = test::kIncarnation;
  server.gather_threads = 0;
  EXPECT_EQ(UcxRowServer::Create(server).error().code(), StatusCode::kInvalidArgument);
  UcxTransportOptions reader;
  reader.way = ReadWay::kOneSided;
  EXPECT_EQ(UcxTransport::Create(reader).error().code(), StatusCode::kInvalidArgument);
  reader.way = ReadWay::kAuto;
  reader.tls = "nosuchtransport";
  EXPECT_FALSE(UcxTransport::Create(reader).has_value());
}

}  // namespace
}  // namespace engram
