// What readers can make a coordinator hold, and whom they can wake.
#include "coordinator/held_calls.h"

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/unit/coordinator/service_fixture.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using ::testing::HasSubstr;

constexpr MonotonicTime kNever = MonotonicTime::max();

class HeldCallsTest : public ::testing::Test {
 protected:
  void TearDown() override {
    held_->WakeAll();
    Poll();
  }
  void Poll() {
    io_.restart();
    io_.poll();
  }
  // A call that waits once.
  Status Begin(uint64_t connection, const std::string& host = "10.0.0.1",
               MonotonicTime until = kNever, HeldCalls::By by = HeldCalls::By::kReader) {
    const RpcPeer peer{connection, host + ":1234"};
    std::unique_ptr<HeldCalls::Call> call;
    if (Status status = held_->Hold(peer, by, &call); !status.ok()) return status;
    boost::asio::co_spawn(io_, WaitOnce(std::move(call), until), boost::asio::detached);
    Poll();
    return Status();
  }
  awaitable<void> WaitOnce(std::unique_ptr<HeldCalls::Call> call, MonotonicTime until) {
    co_await call->Wait(until);
    ++ended_;
  }

  boost::asio::io_context io_;
  const std::shared_ptr<HeldCalls> held_ = std::make_shared<HeldCalls>(
      io_.get_executor(), HeldCalls::Options{.connection_max = 4, .readers_max = 12});
  int ended_ = 0;
};

TEST_F(HeldCallsTest, AConnectionHoldsFourAndOthersGoOn) {
  for (int i = 0; i < 4; ++i) EXPECT_EQ(Begin(1), Status());
  const Status refused = Begin(1);
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("4 calls of this connection are held back already"));
  EXPECT_EQ(Begin(2), Status());
  EXPECT_EQ(held_->count(), 5u);
  held_->WakeAll();
  Poll();
  EXPECT_EQ(held_->count(), 0u);
  EXPECT_EQ(Begin(1), Status());  // they have been answered
}

TEST_F(HeldCallsTest, OneHostHoldsHalfAndTheNextStillFindsRoomAndNodesAlways) {
  const auto fill = [this](const std::string& host, uint64_t connection) {
    int held = 0;
    while (Begin(connection++, host).ok()) ++held;
    return held;
  };
  EXPECT_EQ(fill("10.0.0.1", 100), 6);
  EXPECT_EQ(fill("10.0.0.2", 200), 3);
  EXPECT_EQ(fill("10.0.0.3", 300), 2);
  const Status refused = Begin(400, "10.0.0.1");
  EXPECT_EQ(refused.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(refused.message(), HasSubstr("11 of 12 calls are held back, 6 of them"));
  EXPECT_EQ(Begin(500, "10.0.0.4"), Status());
  EXPECT_FALSE(Begin(600, "10.0.0.5").ok());
  for (uint64_t node = 700; node < 720; ++node) {
    EXPECT_EQ(Begin(node, "10.0.0.1", kNever, HeldCalls::By::kNode), Status());
  }
}

TEST_F(HeldCallsTest, ADeadlineWakesItsOwnCallAlone) {
  for (uint64_t i = 0; i < 5; ++i) ASSERT_EQ(Begin(i), Status());
  for (int i = 1; i <= 50; ++i) {
    ASSERT_EQ(Begin(9, "10.0.0.2", SteadyClock().Now() + std::chrono::milliseconds(1)), Status());
    io_.restart();
    while (ended_ < i) io_.run_one();
    EXPECT_EQ(held_->wakes(), static_cast<uint64_t>(i));
  }
  EXPECT_EQ(held_->count(), 5u);
}

TEST_F(HeldCallsTest, ChangesWakeEachCallOnceHoweverManyComeAtATime) {
  for (uint64_t i = 0; i < 6; ++i) ASSERT_EQ(Begin(i), Status());
  held_->WakeAll();
  held_->WakeAll();
  Poll();
  EXPECT_EQ(ended_, 6);
  EXPECT_EQ(held_->wakes(), 6u);
}

// What the allocator has given out, threads' arenas and mappings of their own included.
size_t AllocatedBytes() {
  const struct mallinfo2 info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

class HeldServiceTest : public CoordinatorServiceTest {
 protected:
  // Field 99, which nobody knows.
  static std::string Unknown(size_t bytes) {
    std::string field("\x9a\x06", 2);
    for (size_t left = bytes; left > 0; left >>= 7) {
      field.push_back(static_cast<char>((left & 0x7f) | (left >= 0x80 ? 0x80 : 0)));
    }
    return field + std::string(bytes, 'x');
  }
  static std::string ForeverBody() { return MapBody(0, UINT64_MAX, kForeverMs); }
};

TEST_F(HeldServiceTest, AReaderHoldsFourCallsOfAConnectionAndTheOthersAreWoken) {
  ASSERT_TRUE(Register("a", 11).has_value());
  const uint64_t version = CreateVersion();
  const uint64_t epoch = Map(version).map().epoch();
  std::vector<Reply> greedy;
  for (int i = 0; i < 4; ++i) greedy.push_back(BeginCall("directory.GetShardMap", ForeverBody()));
  for (const auto& [method, body] :
       {std::pair("directory.GetShardMap", ForeverBody()),
        std::pair("admin.GetEvents", std::string("\x08\xff\xff\x03\x10\x90\x4e"))}) {
    const auto refused = Call(method, body);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(refused.error().message(), HasSubstr("wait_ms 0"));
  }
  EXPECT_EQ(Map(version).map().epoch(), epoch);  // which need not be held
  const RpcPeer other{2, "127.0.0.1:10"};
  const RpcPeer third{3, "127.0.0.1:11"};
  const Reply waiting =
      BeginCallOf(other, "directory.GetShardMap", MapBody(version, epoch, kForeverMs));
  const Reply also = BeginCallOf(third, "directory.GetShardMap", MapBody(0, epoch, kForeverMs));
  EXPECT_FALSE(waiting->has_value());
  EXPECT_EQ(service_->held().count(), 6u);
  ASSERT_TRUE(Register("a", 12).has_value());
  const auto reply = Parse<proto::GetShardMapReply>(Await(waiting));
  EXPECT_EQ(reply.map().nodes(0).incarnation(), 12u);
  EXPECT_EQ(*Await(also), *Await(waiting));
  // In the order of the fields, as Protobuf writes it at once.
  EXPECT_EQ(reply.SerializeAsString(), *Await(waiting));
  EXPECT_EQ(service_->held().count(), 4u);
}

TEST_F(HeldServiceTest, NothingOfWhatAHeldCallBroughtIsKept) {
  ASSERT_TRUE(Register("a", 11).has_value());
  CreateVersion();
  constexpr size_t kBrought = 8u << 20;
  constexpr size_t kEach = 4u << 10;
  std::vector<RpcPeer> peers;
  for (uint64_t i = 0; i < 16; ++i) peers.push_back({i, "127.0.0.1:9"});
  std::vector<Reply> replies;
  replies.push_back(BeginCallOf(peers[0], "directory.GetShardMap", ForeverBody()));
  const size_t before = AllocatedBytes();
  for (size_t i = 1; i < peers.size(); ++i) {
    replies.push_back(
        BeginCallOf(peers[i], "directory.GetShardMap", ForeverBody() + Unknown(kBrought)));
    EXPECT_FALSE(replies.back()->has_value());
  }
  const size_t of_maps = AllocatedBytes() - before;
  RecordProperty("bytes_of_a_held_call", static_cast<int>(of_maps / (peers.size() - 1)));
  EXPECT_LT(of_maps, (peers.size() - 1) * kEach);
  // A heartbeat is answered at once the first time: its node knows none of its assignments.
  auto told =
      Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs)));
  proto::HeartbeatRequest heartbeat;
  ASSERT_TRUE(heartbeat.ParseFromString(HeartbeatBody("a", 11, kForeverMs)));
  heartbeat.add_known_versions(told.changed(0).version());
  heartbeat.add_known_assignment_revisions(told.changed(0).revision());
  const size_t between = AllocatedBytes();
  const Reply held = BeginCall("node.Heartbeat", heartbeat.SerializeAsString() + Unknown(kBrought));
  EXPECT_FALSE(held->has_value());
  EXPECT_LT(AllocatedBytes(), between + 2 * kEach);
}

TEST_F(HeldServiceTest, AShortWaitWakesNoOtherCall) {
  std::vector<RpcPeer> peers;
  for (uint64_t i = 10; i < 110; ++i) peers.push_back({i, "127.0.0.1:9"});
  std::vector<Reply> replies;
  for (const RpcPeer& peer : peers) {
    replies.push_back(BeginCallOf(peer, "directory.GetShardMap", ForeverBody()));
  }
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(Call("directory.GetShardMap", MapBody(0, 0, 1)).error().code(),
              StatusCode::kNotFound);
  }
  EXPECT_LE(service_->held().wakes(), 20u);
  EXPECT_EQ(service_->held().count(), 100u);
}

// As a hostile reader's: 16 connections with all the calls that may be in flight.
TEST_F(HeldServiceTest, OfFourThousandCallsOfAReaderSixtyFourAreHeldAndANodeIsAnswered) {
  auto server =
      RpcServer::Create(io_.get_executor(), {.listen_address = "127.0.0.1:0"},
                        [this](const RpcPeer& peer, std::string_view method, std::string body) {
                          return service_->Handle(peer, method, std::move(body));
                        });
  ASSERT_TRUE(server.has_value()) << server.error().ToString();
  const std::string address = (*server)->address();
  const std::chrono::milliseconds patience(kForeverMs);
  int refused = 0;
  int others = 0;
  const auto ask = [&](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    const auto reply =
        co_await client->CallRaw("directory.GetShardMap", ForeverBody() + Unknown(4096), patience);
    const bool exhausted =
        !reply.has_value() && reply.error().code() == StatusCode::kResourceExhausted;
    ++(exhausted ? refused : others);
  };
  std::vector<std::shared_ptr<RpcClient>> clients;
  bool heard = false;
  const auto attack = [&]() -> awaitable<void> {
    for (int i = 0; i < 16; ++i) {
      auto client = co_await RpcClient::Connect(io_.get_executor(), address, patience);
      EXPECT_TRUE(client.has_value());
      if (!client.has_value()) co_return;
      clients.push_back(*client);
      for (int call = 0; call < 256; ++call) {
        boost::asio::co_spawn(io_, ask(*client), boost::asio::detached);
      }
    }
    proto::RegisterNodeRequest node;
    node.mutable_node()->set_id("a");
    node.mutable_node()->set_incarnation(1);
    node.mutable_node()->set_data_address("127.0.0.1:7100");
    node.mutable_node()->set_capacity_bytes(1 << 20);
    auto client = co_await RpcClient::Connect(io_.get_executor(), address, patience);
    const auto reply =
        co_await (*client)->CallRaw("node.Register", node.SerializeAsString(), patience);
    EXPECT_TRUE(reply.has_value()) << reply.error().ToString();
    (*client)->Close();
    heard = true;
  };
  boost::asio::co_spawn(io_, attack(), boost::asio::detached);
  io_.restart();
  while (!heard || refused + others < 16 * 252) io_.run_one();
  EXPECT_EQ(refused, 16 * 252);
  EXPECT_EQ(others, 0);
  EXPECT_EQ(service_->held().count(), 64u);
  for (const auto& client : clients) client->Close();
  while (refused + others < 16 * 256) io_.run_one();
  server->reset();
}

}  // namespace
}  // namespace engram
