#include <chrono>
#include <string>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>

#include "engram/rpc/coordinator_choice.h"
#include "engram/rpc/host_port.h"
#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/support/silent_port.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::use_awaitable;
using std::chrono::milliseconds;

// A server whose methods answer what their names say; client and server share one thread.
class RpcTest : public testing::Test {
 protected:
  void StartServer(RpcServer::Options options = {}) {
    options.listen_address = "127.0.0.1:0";
    auto server = RpcServer::Create(
        io_.get_executor(), options,
        [this](const RpcPeer& peer, std::string_view method,
               std::string body) -> awaitable<Result<std::string>> {
          return Handle(peer, std::string(method), std::move(body));
        },
        [this](const RpcPeer&) { ++disconnects_; });
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = std::move(*server);
  }

  awaitable<Result<std::string>> Handle(RpcPeer peer, std::string method, std::string body) {
    if (method == "test.Echo") co_return body;
    if (method == "test.Refuse") co_return Error(StatusCode::kNotOwned, "slot 17 is elsewhere");
    if (method == "test.Throw") throw std::runtime_error("boom");
    if (method == "test.Hang" || method == "test.Late") {
      boost::asio::steady_timer timer(io_);
      timer.expires_after(milliseconds(method == "test.Late" ? 60 : 5000));
      boost::system::error_code ignored;
      co_await timer.async_wait(boost::asio::redirect_error(use_awaitable, ignored));
      co_return "late";
    }
    if (method == "test.HangUp") {
      server_->Disconnect(peer.connection_id);
      co_return "never seen";
    }
    co_return Error(StatusCode::kNotFound, "no method " + method);
  }

  // Runs one coroutine with a connected client, then stops everything.
  template <typename Body>
  void WithClient(Body body) {
    bool ran = false;
    boost::asio::co_spawn(
        io_,
        [&]() -> awaitable<void> {
          auto client = co_await RpcClient::Connect(io_.get_executor(), server_->address(),
                                                    milliseconds(2000));
          EXPECT_TRUE(client.has_value()) << client.error().ToString();
          if (client.has_value()) co_await body(*client);
          ran = true;
          io_.stop();
        },
        boost::asio::detached);
    io_.run_for(std::chrono::seconds(20));
    EXPECT_TRUE(ran);
  }

  boost::asio::io_context io_;
  std::unique_ptr<RpcServer> server_;
  int disconnects_ = 0;
};

// A peer at 127.0.0.`host`; a connection that the server does not take is closed.
class OpenedConnections {
 public:
  OpenedConnections(boost::asio::io_context& io, std::string server) : io_(io) {
    port_ = static_cast<uint16_t>(std::stoi(server.substr(server.rfind(':') + 1)));
  }
  // How many of `count` more are still open a while later.
  size_t Open(int host, size_t count) {
    using boost::asio::ip::tcp;
    std::vector<std::shared_ptr<tcp::socket>> opened;
    const auto address = boost::asio::ip::make_address_v4("127.0.0." + std::to_string(host));
    for (size_t i = 0; i < count; ++i) {
      const auto socket = std::make_shared<tcp::socket>(io_, tcp::endpoint(address, 0));
      socket->connect({boost::asio::ip::make_address_v4("127.0.0.1"), port_});
      auto closed = std::make_shared<bool>(false);
      socket->async_wait(tcp::socket::wait_read,
                         [closed](boost::system::error_code) { *closed = true; });
      sockets_.push_back(socket);
      io_.run_for(milliseconds(50));
      if (!*closed) opened.push_back(socket);
    }
    return opened.size();
  }
  void CloseAll() {
    sockets_.clear();
    io_.run_for(milliseconds(200));
  }

 private:
  boost::asio::io_context& io_;
  uint16_t port_;
  std::vector<std::shared_ptr<boost::asio::ip::tcp::socket>> sockets_;
};

TEST_F(RpcTest, OneHostMayHaveAsManyConnectionsAsAreFree) {
  RpcServer::Options options;
  options.connections_max = 10;
  StartServer(options);
  OpenedConnections connections(io_, server_->address());
  EXPECT_EQ(connections.Open(2, 8), 5u);
  EXPECT_EQ(connections.Open(3, 8), 3u);  // two are left: two for others, or none for it
  EXPECT_EQ(connections.Open(4, 8), 1u);
  connections.CloseAll();
  EXPECT_EQ(connections.Open(2, 8), 5u);
}

TEST_F(RpcTest, ReplyCarriesTheBodyBack) {
  StartServer();
  WithClient([](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    const std::string body(300'000, 'x');
    auto reply = co_await client->CallRaw("test.Echo", body, milliseconds(2000));
    EXPECT_TRUE(reply.has_value());
    EXPECT_EQ(*reply, body);
  });
}

TEST_F(RpcTest, ErrorsKeepTheirCodeAndMessage) {
  StartServer();
  WithClient([](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    auto refused = co_await client->CallRaw("test.Refuse", "", milliseconds(2000));
    EXPECT_EQ(refused.error(), Status(StatusCode::kNotOwned, "slot 17 is elsewhere"));
    auto thrown = co_await client->CallRaw("test.Throw", "", milliseconds(2000));
    EXPECT_EQ(thrown.error().code(), StatusCode::kInternal);
    auto unknown = co_await client->CallRaw("test.Nothing", "", milliseconds(2000));
    EXPECT_EQ(unknown.error().code(), StatusCode::kNotFound);
  });
}

TEST_F(RpcTest, ASlowCallDoesNotHoldUpOthersAndEndsAtItsDeadline) {
  StartServer();
  WithClient([this](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    bool late_done = false;
    boost::asio::co_spawn(
        io_,
        [&]() -> awaitable<void> {
          auto late = co_await client->CallRaw("test.Late", "", milliseconds(2000));
          EXPECT_EQ(late.value_or("error"), "late");
          late_done = true;
        },
        boost::asio::detached);
    auto quick = co_await client->CallRaw("test.Echo", "quick", milliseconds(2000));
    EXPECT_EQ(*quick, "quick");
    EXPECT_FALSE(late_done);
    auto hung = co_await client->CallRaw("test.Hang", "", milliseconds(100));
    EXPECT_EQ(hung.error().code(), StatusCode::kDeadlineExceeded);
    EXPECT_TRUE(late_done);
    auto after = co_await client->CallRaw("test.Echo", "still fine", milliseconds(2000));
    EXPECT_EQ(*after, "still fine");
  });
}

TEST_F(RpcTest, CallsInFlightEndWithPeerLostWhenTheServerHangsUp) {
  StartServer();
  WithClient([this](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    auto lost = co_await client->CallRaw("test.HangUp", "", milliseconds(2000));
    EXPECT_EQ(lost.error().code(), StatusCode::kPeerLost);
    EXPECT_EQ((co_await client->Closed()).code(), StatusCode::kPeerLost);
    auto after = co_await client->CallRaw("test.Echo", "", milliseconds(2000));
    EXPECT_EQ(after.error().code(), StatusCode::kPeerLost);
    EXPECT_EQ(disconnects_, 1);
  });
}

TEST_F(RpcTest, MoreCallsThanTheBoundAreRefusedByName) {
  StartServer({.calls_in_flight_max = 2});
  WithClient([this](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    for (int i = 0; i < 2; ++i) {
      boost::asio::co_spawn(
          io_,
          [client]() -> awaitable<void> {
            (void)co_await client->CallRaw("test.Late", "", milliseconds(2000));
          },
          boost::asio::detached);
    }
    boost::asio::steady_timer pause(io_, milliseconds(20));
    co_await pause.async_wait(use_awaitable);
    auto third = co_await client->CallRaw("test.Echo", "", milliseconds(2000));
    EXPECT_EQ(third.error().code(), StatusCode::kResourceExhausted);
  });
}

TEST_F(RpcTest, RubbishAndOversizedFramesEndTheirConnectionOnly) {
  StartServer({.frame_bytes_max = 1000});
  WithClient([this](std::shared_ptr<RpcClient> client) -> awaitable<void> {
    for (const std::string& bytes :
         {std::string("GET / HTTP/1.1\r\n\r\n"), std::string("\x05\0\0\0\xff\xff\xff\xff\xff", 9),
          std::string("\0\0\0\0", 4)}) {
      boost::asio::ip::tcp::socket socket(io_);
      const auto target = ParseHostPort(server_->address());
      co_await socket.async_connect({boost::asio::ip::make_address(target->host), target->port},
                                    use_awaitable);
      co_await boost::asio::async_write(socket, boost::asio::buffer(bytes), use_awaitable);
      char byte = 0;
      boost::system::error_code error;
      co_await socket.async_read_some(boost::asio::buffer(&byte, 1),
                                      boost::asio::redirect_error(use_awaitable, error));
      EXPECT_TRUE(error) << "the server answered rubbish";
    }
    auto reply = co_await client->CallRaw("test.Echo", "alive", milliseconds(2000));
    EXPECT_EQ(reply.value_or("error"), "alive");
  });
}

TEST_F(RpcTest, ATakenPortIsAnErrorThatNamesIt) {
  StartServer();
  auto second =
      RpcServer::Create(io_.get_executor(), {.listen_address = server_->address()}, nullptr);
  ASSERT_FALSE(second.has_value());
  EXPECT_EQ(second.error().code(), StatusCode::kIo);
  EXPECT_NE(second.error().message().find(server_->address()), std::string::npos);
}

// Linux would ask again after a second.
TEST(RpcConnectTest, APeerThatWasOutOfReachForAMomentIsConnectedWithinTheSecond) {
  test::SilentPort port;
  boost::asio::io_context io;
  boost::asio::steady_timer later(io, milliseconds(100));
  later.async_wait([&](const auto&) { port.AnswerOne(); });
  Status connected(StatusCode::kInternal, "did not end");
  boost::asio::co_spawn(
      io,
      [&]() -> awaitable<void> {
        auto client = co_await RpcClient::Connect(
            io.get_executor(), "127.0.0.1:" + std::to_string(port.number()), milliseconds(950));
        connected = client.has_value() ? Status() : client.error();
      },
      boost::asio::detached);
  io.run_for(std::chrono::seconds(10));
  EXPECT_TRUE(connected.ok()) << connected.ToString();
}

TEST(RpcCallOnceTest, NobodyListeningIsUnavailable) {
  auto reply = RpcCallOnce({"127.0.0.1:1"}, "test.Echo", "", milliseconds(2000));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kUnavailable);
}

TEST(RpcCallOnceTest, AnAddressWithoutPortIsInvalid) {
  auto reply = RpcCallOnce({"localhost"}, "test.Echo", "", milliseconds(2000));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kInvalidArgument);
}

// A server on a thread of its own that follows, or leads where `leader` is empty.
class RoleServer {
 public:
  explicit RoleServer(std::string leader, StatusCode code = StatusCode::kOk) {
    RpcServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.leader = [leader = std::move(leader)] { return leader; };
    server_ = RpcServer::Create(io_.get_executor(), options,
                                [this, code](const RpcPeer&, std::string_view,
                                             std::string) -> awaitable<Result<std::string>> {
                                  if (code != StatusCode::kOk) co_return Error(code, "not here");
                                  co_return server_->address();
                                })
                  .value();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~RoleServer() {
    io_.stop();
    thread_.join();
  }
  [[nodiscard]] std::string address() const { return server_->address(); }

 private:
  boost::asio::io_context io_{1};
  std::unique_ptr<RpcServer> server_;
  std::thread thread_;
};

TEST(RpcCallOnceTest, TheLeaderThatAFollowerNamesIsAsked) {
  const RoleServer leader("");
  const RoleServer refuses(leader.address(), StatusCode::kUnavailable);
  const RoleServer answers(leader.address());
  for (const RoleServer* follower : {&refuses, &answers}) {
    const auto reply =
        RpcCallOnce({"127.0.0.1:1", follower->address()}, "test.Who", "", milliseconds(5000));
    ASSERT_TRUE(reply.has_value()) << reply.error().ToString();
    EXPECT_EQ(*reply, leader.address());
  }
}

TEST(RpcCallOnceTest, AFollowersAnswerStandsWhereItsLeaderIsGone) {
  const RoleServer follower("127.0.0.1:1");
  EXPECT_EQ(RpcCallOnce({follower.address()}, "test.Who", "", milliseconds(5000)).value(),
            follower.address());
}

TEST(RpcCallOnceTest, WhatTheLeaderRefusesIsRefused) {
  const RoleServer leader("", StatusCode::kNotFound);
  const RoleServer follower(leader.address());
  const auto reply = RpcCallOnce({follower.address()}, "test.Who", "", milliseconds(5000));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kNotFound);
}

TEST(RpcCallOnceTest, EveryAddressThatFailedIsNamed) {
  const auto reply =
      RpcCallOnce({"127.0.0.1:1", "127.0.0.1:2"}, "test.Who", "", milliseconds(5000));
  ASSERT_FALSE(reply.has_value());
  EXPECT_NE(reply.error().message().find("127.0.0.1:1"), std::string::npos);
  EXPECT_NE(reply.error().message().find("127.0.0.1:2"), std::string::npos);
}

TEST(CoordinatorChoiceTest, AddressesHaveTheirTurnsAndALeaderIsAskedAtOnce) {
  CoordinatorChoice choice({"a:1", "b:1"});
  EXPECT_EQ(choice.current(), "a:1");
  EXPECT_FALSE(choice.Failed(""));
  EXPECT_EQ(choice.current(), "b:1");
  EXPECT_TRUE(choice.Failed("c:1"));
  EXPECT_EQ(choice.current(), "c:1");
  choice.Answered();
  EXPECT_FALSE(choice.Failed(""));
  EXPECT_EQ(choice.current(), "a:1");
  // What is no address, or the one that just failed, is nobody.
  EXPECT_FALSE(choice.Failed("nowhere"));
  EXPECT_FALSE(choice.Failed("b:1"));
}

TEST(CoordinatorChoiceTest, FollowersThatNameEachOtherEndInAPause) {
  CoordinatorChoice choice({"a:1", "b:1"});
  uint32_t redirects = 0;
  while (choice.Failed(choice.current() == "a:1" ? "b:1" : "a:1")) ++redirects;
  EXPECT_EQ(redirects, CoordinatorChoice::kRedirectsMax);
}

TEST(HostPortTest, ListsOfAddressesAreSplitAndChecked) {
  EXPECT_EQ(SplitAddresses("a:1,,b:2,").size(), 2u);
  EXPECT_EQ(ParseAddresses("a:1,[::1]:2").value().back(), "[::1]:2");
  EXPECT_EQ(ParseAddresses("a:1,b").error().code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseAddresses(",").error().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
