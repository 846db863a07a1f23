// What hostile peers cost a server: handshakes, replies that nobody takes, lines in its log.
#include <atomic>
#include <chrono>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <gmock/gmock.h>
#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <spdlog/sinks/base_sink.h>
#include <spdlog/spdlog.h>

#include "engram/base/tell_rate.h"
#include "engram/rpc/frame.h"
#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/support/child_process.h"
#include "tests/support/closes_within.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::ip::tcp;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr size_t kLongReplyBytes = 256u << 10;

std::string FrameOf(uint64_t call_id, const std::string& method) {
  proto::Frame frame;
  frame.set_call_id(call_id);
  frame.set_method(method);
  std::string bytes;
  EXPECT_TRUE(AppendFrame(frame, 1u << 20, &bytes).ok());
  return bytes;
}

// A server on a thread of its own.
class RpcBoundsTest : public testing::Test {
 protected:
  ~RpcBoundsTest() override { StopServer(); }

  void StartServer(RpcServer::Options options) {
    options.listen_address = "127.0.0.1:0";
    auto server = RpcServer::Create(
        io_.get_executor(), options,
        [this](const RpcPeer&, std::string_view method,
               std::string) -> awaitable<Result<std::string>> {
          ++handled_;
          if (method == "test.Held") {
            boost::system::error_code ignored;
            co_await held_.async_wait(
                boost::asio::redirect_error(boost::asio::use_awaitable, ignored));
          }
          co_return std::string(reply_bytes_, 'x');
        },
        [this](const RpcPeer&) { ++ended_; });
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = *std::move(server);
    const std::string address = server_->address();
    port_ = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    thread_ = std::thread([this] { io_.run(); });
  }
  void StopServer() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
  }
  tcp::socket Connect() {
    tcp::socket socket(client_io_);
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), port_});
    return socket;
  }
  ChannelSecurity Security(Role role, const std::string& name) {
    return ca_.Security(scratch_.path() / name, role, name);
  }

  test::ScratchDir scratch_;
  test::TestCa ca_;
  boost::asio::io_context io_;
  boost::asio::io_context client_io_;
  std::unique_ptr<RpcServer> server_;
  uint16_t port_ = 0;
  std::thread thread_;
  size_t reply_bytes_ = 2;
  // Cancelled: calls of test.Held are answered. On the server's thread.
  boost::asio::steady_timer held_{io_, boost::asio::steady_timer::time_point::max()};
  std::atomic<int> ended_{0};
  std::atomic<int> handled_{0};
};

TEST_F(RpcBoundsTest, OfTooManyHandshakesTheOldestEndsAndWhoHasACertificateGetsIn) {
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  options.connections_max = 40;
  options.handshakes_max = 3;
  StartServer(options);
  std::vector<tcp::socket> silent;
  for (int i = 0; i < 8; ++i) {
    silent.push_back(Connect());
    // So that the server takes them in this order.
    if (i >= 3) {
      EXPECT_TRUE(test::ClosesWithin(silent[static_cast<size_t>(i) - 3], seconds(5))) << i;
    }
  }
  for (size_t i = 5; i < 8; ++i) EXPECT_FALSE(test::ClosesWithin(silent[i], milliseconds(0))) << i;
  const auto reply = RpcCallOnce({server_->address()}, "directory.GetShardMap", "", seconds(5),
                                 Security(Role::kReader, "gpu-1"));
  EXPECT_TRUE(reply.has_value()) << reply.error().ToString();
  EXPECT_TRUE(test::ClosesWithin(silent[5], seconds(5)));  // for that one
  for (size_t i = 6; i < 8; ++i) EXPECT_FALSE(test::ClosesWithin(silent[i], milliseconds(0))) << i;
}

TEST_F(RpcBoundsTest, HandshakesEndNoConnectionThatIsOpen) {
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  options.connections_max = 40;
  options.handshakes_max = 1;
  StartServer(options);
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  const std::string address = server_->address();
  std::vector<tcp::socket> silent;
  bool ran = false;
  boost::asio::io_context io;
  boost::asio::co_spawn(
      io,
      [&]() -> awaitable<void> {
        auto client = co_await RpcClient::Connect(io.get_executor(), address, seconds(5), reader);
        EXPECT_TRUE(client.has_value());
        if (!client.has_value()) co_return;
        // A client is done with its handshake before the server is.
        auto first = co_await (*client)->CallRaw("directory.GetShardMap", "", seconds(5));
        EXPECT_TRUE(first.has_value());
        for (size_t i = 0; i < 12; ++i) {
          silent.push_back(Connect());
          if (i > 0) {
            EXPECT_TRUE(test::ClosesWithin(silent[i - 1], seconds(5)));
          }
          auto reply = co_await (*client)->CallRaw("directory.GetShardMap", "", seconds(5));
          EXPECT_TRUE(reply.has_value());
        }
        ran = true;
      },
      boost::asio::detached);
  io.run();
  EXPECT_TRUE(ran);
  EXPECT_EQ(handled_, 13);
}

TEST_F(RpcBoundsTest, WhoSaysNothingOrAByteAtATimeIsClosed) {
  RpcServer::Options options;
  options.frame_timeout = milliseconds(300);
  StartServer(options);
  tcp::socket silent = Connect();
  tcp::socket slow = Connect();
  const std::string frame = FrameOf(1, "test." + std::string(5000, 'x'));
  size_t said = 0;
  bool closed = false;
  while (!closed && said < frame.size()) {
    boost::system::error_code ignored;
    boost::asio::write(slow, boost::asio::buffer(frame.data() + said++, 1), ignored);
    closed = test::ClosesWithin(slow, milliseconds(20));
  }
  EXPECT_TRUE(closed);
  EXPECT_TRUE(test::ClosesWithin(silent, seconds(10)));
  EXPECT_EQ(handled_, 0);
}

TEST_F(RpcBoundsTest, WhoDoesNotFinishAHandshakeIsClosed) {
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  options.handshake_timeout = milliseconds(300);
  StartServer(options);
  tcp::socket silent = Connect();
  tcp::socket begun = Connect();
  boost::asio::write(begun, boost::asio::buffer(std::string("\x16\x03\x01\x02", 4)));
  EXPECT_TRUE(test::ClosesWithin(silent, seconds(10)));
  EXPECT_TRUE(test::ClosesWithin(begun, seconds(10)));
}

TEST_F(RpcBoundsTest, WhoTakesNoRepliesIsNotReadFromUntilItDoes) {
  constexpr uint64_t kCalls = 400;  // whose replies are 100 MiB
  reply_bytes_ = kLongReplyBytes;
  RpcServer::Options options;
  options.calls_in_flight_max = kCalls;
  StartServer(options);
  tcp::socket socket(client_io_, tcp::v4());
  socket.set_option(tcp::socket::receive_buffer_size(4096));
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), port_});
  std::string calls;
  for (uint64_t i = 1; i <= kCalls; ++i) calls += FrameOf(i, "test.Long");
  boost::asio::write(socket, boost::asio::buffer(calls));
  // Until it does nothing more: what it would do is quick.
  int before = -1;
  while (handled_ != before) {
    before = handled_;
    std::this_thread::sleep_for(milliseconds(300));
  }
  // More than the bound, what the system keeps for a socket, and one read from it.
  EXPECT_GT(handled_, 4);
  EXPECT_LT(handled_, static_cast<int>(kCalls) / 2);
  FrameDecoder decoder(64u << 20);
  uint64_t replies = 0;
  while (replies < kCalls) {
    const auto room = decoder.Prepare();
    boost::system::error_code error;
    const size_t count = socket.read_some(boost::asio::buffer(room.data(), room.size()), error);
    ASSERT_FALSE(error) << error.message() << " after " << replies;
    decoder.Commit(count);
    while (true) {
      auto next = decoder.Next();
      ASSERT_TRUE(next.has_value()) << next.error().ToString();
      if (!next->has_value()) break;
      EXPECT_EQ((*next)->body().size(), kLongReplyBytes);
      ++replies;
    }
  }
  EXPECT_EQ(handled_, static_cast<int>(kCalls));
}

TEST_F(RpcBoundsTest, CallsThatWaitedDoNotFillMemoryWithRepliesThatNobodyTakes) {
  constexpr uint64_t kCalls = 256;  // whose replies are 64 MiB
  reply_bytes_ = kLongReplyBytes;
  StartServer({});
  tcp::socket socket(client_io_, tcp::v4());
  socket.set_option(tcp::socket::receive_buffer_size(4096));
  socket.connect({boost::asio::ip::make_address("127.0.0.1"), port_});
  std::string calls;
  for (uint64_t i = 1; i <= kCalls; ++i) calls += FrameOf(i, "test.Held");
  boost::asio::write(socket, boost::asio::buffer(calls));
  for (int i = 0; handled_ < static_cast<int>(kCalls) && i < 1000; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(handled_, static_cast<int>(kCalls));
  boost::asio::post(io_, [this] { held_.cancel(); });
  for (int i = 0; ended_ == 0 && i < 1000; ++i) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(ended_, 1);
}

class LinesSink final : public spdlog::sinks::base_sink<std::mutex> {
 public:
  [[nodiscard]] std::vector<std::string> lines() {
    const std::lock_guard lock(mutex_);
    return lines_;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    lines_.emplace_back(message.payload.data(), message.payload.size());
  }
  void flush_() override {}

  std::vector<std::string> lines_;  // guarded by the base's mutex_
};

// Takes what the process logs while it lives. Made before there are threads that log, and gone
// after them.
class TakenLog {
 public:
  TakenLog() : before_(spdlog::default_logger()) {
    spdlog::set_default_logger(std::make_shared<spdlog::logger>("taken", sink_));
  }
  ~TakenLog() { spdlog::set_default_logger(before_); }
  [[nodiscard]] std::vector<std::string> lines() const { return sink_->lines(); }

 private:
  const std::shared_ptr<spdlog::logger> before_;
  const std::shared_ptr<LinesSink> sink_ = std::make_shared<LinesSink>();
};

TEST_F(RpcBoundsTest, RefusalsAreToldAtABoundedRateAndNoneIsForgotten) {
  constexpr uint64_t kBad = 300;
  const TakenLog log;
  StartServer({});
  const auto began = std::chrono::steady_clock::now();
  uint64_t sent = 0;
  const auto send_bad = [&] {
    tcp::socket socket = Connect();
    boost::asio::write(socket, boost::asio::buffer(std::string(4, '\0')));
    EXPECT_TRUE(test::ClosesWithin(socket, seconds(5)));
    ++sent;
  };
  while (sent < kBad) send_bad();
  const auto count = [&] {
    std::pair<uint64_t, uint64_t> told;  // told, and left out
    for (const std::string& line : log.lines()) {
      if (line.starts_with("closed the connection of")) ++told.first;
      if (line.find("more refusals and faults") != std::string::npos) {
        told.second += std::stoull(line);
      }
    }
    return told;
  };
  // The server tells of a connection after it has closed it, so each count waits a little first.
  std::this_thread::sleep_for(milliseconds(100));
  const uint64_t told = count().first;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  EXPECT_LE(static_cast<double>(told), 20 * (took.count() + 1));
  EXPECT_GE(told, 20u);
  // The next that is told tells of the others.
  while (count().first + count().second < sent) {
    send_bad();
    std::this_thread::sleep_for(milliseconds(100));
    ASSERT_LT(sent, kBad + 100);
  }
  EXPECT_EQ(count().first + count().second, sent);
  StopServer();
}

TEST_F(RpcBoundsTest, AMethodsNameMakesNoLineOfItsOwn) {
  const TakenLog log;
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  StartServer(options);
  const auto refused = RpcCallOnce({server_->address()}, "admin.\nX\x1b[2J", "", seconds(5),
                                   Security(Role::kReader, "gpu-1"));
  EXPECT_FALSE(refused.has_value());
  StopServer();
  bool told = false;
  for (const std::string& line : log.lines()) {
    told = told || line.find("refused admin.?X?[2J") != std::string::npos;
    EXPECT_EQ(line.find_first_of("\n\x1b"), std::string::npos) << line;
  }
  EXPECT_TRUE(told);
}

std::atomic<int> protobuf_lines{0};
void CountLine(google::protobuf::LogLevel /*level*/, const char* /*file*/, int /*line*/,
               const std::string& /*message*/) {
  ++protobuf_lines;
}

TEST_F(RpcBoundsTest, TextThatIsNoneMakesNoLineOnStandardError) {
  // It would: the server is what keeps it quiet.
  (void)google::protobuf::SetLogHandler(&CountLine);
  protobuf_lines = 0;
  const std::string bytes = FrameOf(1, "test.\xff\xfe");
  const int for_one = protobuf_lines;
  EXPECT_GT(for_one, 0);
  testing::internal::CaptureStderr();
  StartServer({});
  tcp::socket socket = Connect();
  for (int i = 0; i < 10; ++i) {
    boost::system::error_code ignored;
    boost::asio::write(socket, boost::asio::buffer(bytes), ignored);
  }
  (void)RpcCallOnce({server_->address()}, "test.Echo", "", seconds(5));
  StopServer();
  EXPECT_EQ(protobuf_lines, for_one);
  EXPECT_EQ(testing::internal::GetCapturedStderr().find("UTF-8"), std::string::npos);
}

TEST(TellRateTest, SoManyASecondAndTheNextTellsHowManyWereLeftOut) {
  TellRate rate(10);
  MonotonicTime now{seconds(100)};
  const auto tell = [&](int times) {
    int told = 0;
    for (int i = 0; i < times; ++i) told += rate.Tell(now).has_value() ? 1 : 0;
    return told;
  };
  EXPECT_EQ(tell(1000), 10);
  now += milliseconds(550);
  EXPECT_EQ(rate.Tell(now), std::optional<uint64_t>(990));
  EXPECT_EQ(rate.Tell(now), std::optional<uint64_t>(0));
  EXPECT_EQ(tell(1000), 3);
  now += std::chrono::hours(1);  // nothing is saved up
  EXPECT_EQ(tell(1000), 10);
}

}  // namespace
}  // namespace engram
