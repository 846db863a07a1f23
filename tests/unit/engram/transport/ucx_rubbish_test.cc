// A node and a peer that sends what no reader of ours would.
#include <fstream>
#include <functional>
#include <sstream>
#include <thread>

#include <gtest/gtest.h>
#include <malloc.h>

#include "tests/support/rude_peer.h"
#include "tests/support/silent_port.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using test::RudePeer;

std::unique_ptr<RudePeer> Rude(
    const std::string& tls, const NodeTarget& target,
    std::function<std::string(std::string own_address)> addressed = nullptr) {
  return RudePeer::Create(target, {.tls = tls, .addressed = std::move(addressed)}).value();
}

class UcxRubbishTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Over, UcxRubbishTest, ::testing::Values("tcp", "shm"));

// Left alone, UCX calls what stands in places of its table that nobody has filled (1.13.1): here,
// nothing that could be called.
TEST_P(UcxRubbishTest, MessagesThatNoProtocolHasAreRefused) {
  constexpr int kFill = 0x55;
  mallopt(M_PERTURB, kFill);
  test::UcxFixture f({"", GetParam(), "off", ReadWay::kGather});
  f.Start();
  const auto peer = Rude(GetParam(), f.Target());
  mallopt(M_PERTURB, 0);
  for (const uint32_t id : {0u, 5u, 15u, 16u, 31u, 1000u, 65535u}) {
    peer->Send(static_cast<GatherMessageId>(id), peer->GoodHeader(), 8);
  }
  peer->Send(GatherMessageId::kRequest, peer->GoodHeader(), 8);  // the node lives
  ASSERT_TRUE(peer->Drive([&] { return peer->statuses.size() == 1; }));
  EXPECT_EQ(peer->statuses.front(), StatusCode::kOk);
  EXPECT_EQ(f.server_->stats().refused_messages, 7u);
}

TEST_P(UcxRubbishTest, RubbishIsRefusedCountedAndAnsweredWhereTheSessionIsKnown) {
  test::UcxFixture f({"", GetParam(), "off", ReadWay::kGather});
  f.Start();
  const auto connected = Rude(GetParam(), f.Target());
  RudePeer& peer = *connected;
  constexpr auto kRequest = GatherMessageId::kRequest;

  // Nobody to answer to.
  peer.Send(kRequest, std::vector<std::byte>{}, 0);
  peer.Send(kRequest, std::vector<std::byte>(7, std::byte{1}), 100);
  GatherRequestHeader header = peer.GoodHeader();
  header.magic ^= 1;
  peer.Send(kRequest, header, 8);
  header = peer.GoodHeader();
  header.session ^= 1;
  peer.Send(kRequest, header, 8);
  peer.Send(GatherMessageId::kLeaseRequest, std::vector<std::byte>(500), 0);
  peer.Send(GatherMessageId::kReply, header, 8);
  peer.Send(GatherMessageId::kLeaseGrant, header, 0);
  ASSERT_TRUE(peer.Drive([&] { return f.server_->stats().refused_messages == 7; }));
  EXPECT_TRUE(peer.statuses.empty());

  // Each has its answer.
  header = peer.GoodHeader();
  header.row_count = 0;
  peer.Send(kRequest, header, 0);
  header.row_count = kReadRowsMax + 1;
  peer.Send(kRequest, header, (kReadRowsMax + 1) * 8);
  header = peer.GoodHeader();
  peer.Send(kRequest, header, 9);
  peer.Send(kRequest, header, 1 << 20, /*eager=*/false);  // a rendezvous that is not taken
  ++header.version;
  peer.Send(kRequest, header, 8);
  header = peer.GoodHeader();
  ++header.incarnation;
  peer.Send(kRequest, header, 8);
  ASSERT_TRUE(peer.Drive([&] { return peer.statuses.size() == 6; }));
  std::sort(peer.statuses.begin(), peer.statuses.end());
  EXPECT_EQ(peer.statuses,
            (std::vector<StatusCode>{StatusCode::kInvalidArgument, StatusCode::kInvalidArgument,
                                     StatusCode::kWrongVersion, StatusCode::kWrongIncarnation,
                                     StatusCode::kMalformed, StatusCode::kMalformed}));
  EXPECT_EQ(f.server_->stats().refused_messages, 13u);

  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(500);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

TEST_P(UcxRubbishTest, LeaseOfAnotherIncarnationOrVersionIsNotGranted) {
  test::UcxFixture f({"", GetParam(), "off", ReadWay::kGather});
  UcxRowServerOptions options = f.ServerOptions();
  options.lease = std::chrono::seconds(60);
  f.StartServer(options);
  auto connected = Rude(GetParam(), f.Target());
  RudePeer& peer = *connected;
  LeaseRequest request;
  request.session = peer.GoodHeader().session;
  request.version = test::kVersion.value();
  request.incarnation = test::kIncarnation.value() + 1;
  request.sequence = 1;
  peer.Send(GatherMessageId::kLeaseRequest, request, 0);
  request.incarnation = test::kIncarnation.value();
  request.version += 1;
  request.sequence = 2;
  peer.Send(GatherMessageId::kLeaseRequest, request, 0);
  ASSERT_TRUE(peer.Drive([&] { return peer.grants.size() == 2; }));
  EXPECT_EQ(peer.grants[0].status, static_cast<uint32_t>(StatusCode::kWrongIncarnation));
  EXPECT_EQ(peer.grants[1].status, static_cast<uint32_t>(StatusCode::kWrongVersion));
  EXPECT_EQ(peer.grants[0].lease_ms + peer.grants[1].lease_ms, 0u);
  // A session that is open may still read under the map that it acknowledged; a lease would outlive
  // it.
  EXPECT_FALSE(f.server_->AllAcknowledged(test::kVersion, Epoch(1)));
  connected.reset();
  const auto patience = std::chrono::steady_clock::now() + std::chrono::seconds(40);
  while (!f.server_->AllAcknowledged(test::kVersion, Epoch(1))) {
    ASSERT_LT(std::chrono::steady_clock::now(), patience);
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

// More requests than a session may have, from a peer that takes no replies meanwhile.
TEST_P(UcxRubbishTest, PeerThatTakesNoRepliesStarvesNoOther) {
  test::UcxFixture f({"", GetParam(), "off", ReadWay::kGather});
  f.Start();
  const auto connected = Rude(GetParam(), f.Target());
  RudePeer& peer = *connected;
  GatherRequestHeader header = peer.GoodHeader();
  header.row_count = kReadRowsMax;
  for (int i = 0; i < 200; ++i) peer.Send(GatherMessageId::kRequest, header, kReadRowsMax * 8);
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(kReadRowsMax);
  for (uint64_t tag = 1; tag < 20; ++tag) f.ExpectStored(f.Read(session, tag, rows), rows);
}

// Replaces the ports of the peer's own listeners in its worker address; counts them.
std::string WithPort(std::string address, uint16_t number, int* replaced) {
  for (const uint16_t port : test::ListeningPorts()) {
    const std::string bytes = {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
    const size_t at = address.find(bytes);  // big-endian, as UCX writes it
    if (at == std::string::npos) continue;
    address[at] = static_cast<char>(number >> 8);
    address[at + 1] = static_cast<char>(number & 0xff);
    ++*replaced;
  }
  return address;
}

// Its host was cut off as it opened the session, or it lies.
TEST(UcxRubbishTcpTest, PeerWhoseAddressAnswersNobodyHoldsUpNoOther) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  const test::SilentPort silent;
  int replaced = 0;
  const auto peer = Rude("tcp", f.Target(), [&](std::string address) {
    return WithPort(std::move(address), silent.number(), &replaced);
  });
  ASSERT_GE(replaced, 1);
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(500);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

// It ended as it opened the session, or it lies: nobody listens where it says that it does.
TEST(UcxRubbishTcpTest, PeerThatIsGoneAlreadyEndsNoNode) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  for (int i = 0; i < 20; ++i) {
    uint16_t closed = 0;
    {
      boost::asio::io_context io;
      const boost::asio::ip::tcp::acceptor acceptor(
          io, {boost::asio::ip::make_address_v4("127.0.0.1"), 0});
      closed = acceptor.local_endpoint().port();
    }
    int replaced = 0;
    const auto peer = Rude("tcp", f.Target(), [&](std::string address) {
      return WithPort(std::move(address), closed, &replaced);
    });
    ASSERT_GE(replaced, 1);
    const SessionId session = f.OpenSession();
    const auto rows = f.OwnedRows(500);
    f.ExpectStored(f.Read(session, static_cast<uint64_t>(i) + 1, rows), rows);
    f.reader_->Close(session);
    ASSERT_TRUE(f.Drive([&] { return f.events_->closed.contains(session); }));
  }
}

}  // namespace
}  // namespace engram
