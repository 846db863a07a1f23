// A peer that speaks UCX and the control protocol, and sends what no reader of ours would.
#include <fstream>
#include <functional>
#include <future>
#include <sstream>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_client.h"
#include "engram/transport/gather_message.h"
#include "engram/transport/ucx/ucx_endpoint.h"
#include "proto/session.pb.h"
#include "tests/support/silent_port.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

// A session opened by hand: worker, endpoint and control connection without a reader's care.
class RudePeer final : public UcxMessageHandler {
 public:
  // What it says where it can be reached.
  using Addressed = std::function<std::string(std::string own_address)>;
  RudePeer(
      const std::string& tls, const NodeTarget& target,
      const Addressed& addressed = [](std::string own) { return own; })
      : context_(UcxContext::Create(
                     {.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP, .tls = tls, .name = "rude"})
                     .value()),
        worker_(UcxWorker::Create(*context_).value()),
        work_(boost::asio::make_work_guard(io_)),
        thread_([this] { io_.run(); }) {
    EXPECT_TRUE(worker_->Handle(1, 4, this).ok());
    proto::OpenSessionRequest request;
    request.set_version(target.version.value());
    request.set_model_identity(target.identity.data(), target.identity.size());
    request.set_row_stride(target.row_stride);
    request.set_slot_shift(target.slot_shift);
    request.set_slot_count(target.slot_count);
    request.set_tcp_segment(UcxTcpSegment());
    request.set_worker_address(addressed(worker_->Address().value()));
    client_ = Await(RpcClient::Connect(io_.get_executor(), target.address, kPatience)).value();
    reply_ =
        Await(client_->Call<proto::OpenSessionReply>("session.Open", request, kPatience)).value();
    endpoint_ = UcxEndpoint::Create(*worker_, reply_.worker_address()).value();
  }
  ~RudePeer() {
    endpoint_.reset();
    worker_->FinishClosing();
    boost::asio::post(io_, [client = std::move(client_)] { client->Close(); });
    work_.reset();
    io_.stop();
    thread_.join();
  }

  template <typename T>
  T Await(boost::asio::awaitable<T> work) {
    return boost::asio::co_spawn(io_, std::move(work), boost::asio::use_future).get();
  }
  bool OnMessage(uint32_t id, const UcxMessage& message) override {
    if (id == static_cast<uint32_t>(GatherMessageId::kReply)) {
      statuses.push_back(static_cast<StatusCode>(
          DecodeGatherReply(message.header, message.body_bytes, 268).header.status));
    } else {
      grants.push_back(DecodeLeaseGrant(message.header, message.body_bytes).header);
    }
    return false;
  }
  void Send(GatherMessageId id, std::vector<std::byte> header, size_t body_bytes,
            bool eager = true) {
    bodies_.push_back(std::move(header));
    const std::span<const std::byte> kept = bodies_.back();
    bodies_.emplace_back(body_bytes, std::byte{0xff});
    (void)endpoint_->Send(static_cast<uint32_t>(id), kept, bodies_.back(), eager, &ignored_);
  }
  template <typename Header>
  void Send(GatherMessageId id, const Header& header, size_t body_bytes, bool eager = true) {
    const auto bytes = std::as_bytes(std::span(&header, 1));
    Send(id, std::vector<std::byte>(bytes.begin(), bytes.end()), body_bytes, eager);
  }
  [[nodiscard]] GatherRequestHeader GoodHeader() const {
    GatherRequestHeader header;
    header.row_count = 1;
    header.session = reply_.session();
    header.version = test::kVersion.value();
    header.incarnation = reply_.incarnation();
    return header;
  }
  template <typename Done>
  bool Drive(Done done) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (!done() && std::chrono::steady_clock::now() < end) worker_->Progress();
    return done();
  }

  std::vector<StatusCode> statuses;  // of replies, as they came
  std::vector<LeaseGrant> grants;

 private:
  struct Ignored final : UcxCompletion {
    void OnComplete(ucs_status_t) override {}
  };
  static constexpr std::chrono::milliseconds kPatience{30000};

  Ignored ignored_;
  std::vector<std::vector<std::byte>> bodies_;
  std::unique_ptr<UcxContext> context_;
  std::unique_ptr<UcxWorker> worker_;
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  std::thread thread_;
  std::shared_ptr<RpcClient> client_;
  proto::OpenSessionReply reply_;
  std::unique_ptr<UcxEndpoint> endpoint_;
};

class UcxRubbishTest : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Over, UcxRubbishTest, ::testing::Values("tcp", "shm"));

TEST_P(UcxRubbishTest, RubbishIsRefusedCountedAndAnsweredWhereTheSessionIsKnown) {
  test::UcxFixture f({"", GetParam(), "off", ReadWay::kGather});
  f.Start();
  RudePeer peer(GetParam(), f.Target());
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
  auto connected = std::make_unique<RudePeer>(GetParam(), f.Target());
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
  RudePeer peer(GetParam(), f.Target());
  GatherRequestHeader header = peer.GoodHeader();
  header.row_count = kReadRowsMax;
  for (int i = 0; i < 200; ++i) peer.Send(GatherMessageId::kRequest, header, kReadRowsMax * 8);
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(kReadRowsMax);
  for (uint64_t tag = 1; tag < 20; ++tag) f.ExpectStored(f.Read(session, tag, rows), rows);
}

// Every port on which something listens, as UCX writes it into an address: big-endian.
std::vector<std::string> ListeningPorts() {
  std::vector<std::string> ports;
  for (const char* const table : {"/proc/self/net/tcp", "/proc/self/net/tcp6"}) {
    std::ifstream file(table);
    std::string line;
    while (std::getline(file, line)) {
      std::istringstream words(line);
      std::string entry, local, remote, state;
      words >> entry >> local >> remote >> state;
      if (state != "0A") continue;
      const auto port = std::stoul(local.substr(local.rfind(':') + 1), nullptr, 16);
      ports.push_back({static_cast<char>(port >> 8), static_cast<char>(port & 0xff)});
    }
  }
  return ports;
}

// Its host was cut off as it opened the session, or it lies.
TEST(UcxRubbishTcpTest, PeerWhoseAddressAnswersNobodyHoldsUpNoOther) {
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  const test::SilentPort silent;
  int replaced = 0;
  const RudePeer peer("tcp", f.Target(), [&](std::string address) {
    for (const std::string& port : ListeningPorts()) {
      const size_t at = address.find(port);
      if (at == std::string::npos) continue;
      address[at] = static_cast<char>(silent.number() >> 8);
      address[at + 1] = static_cast<char>(silent.number() & 0xff);
      ++replaced;
    }
    return address;
  });
  ASSERT_GE(replaced, 1);
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(500);
  f.ExpectStored(f.Read(session, 1, rows), rows);
}

}  // namespace
}  // namespace engram
