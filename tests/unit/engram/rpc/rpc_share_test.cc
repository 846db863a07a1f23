// What hosts share of a server, and how long a frame may be.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <poll.h>

#include "engram/rpc/frame.h"
#include "engram/rpc/host_share.h"
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

constexpr milliseconds kPatience{10'000};

std::string FrameOf(size_t body_bytes) {
  proto::Frame frame;
  frame.set_call_id(1);
  frame.set_method("session.Open");
  frame.set_body(std::string(body_bytes, 'x'));
  std::string bytes;
  EXPECT_TRUE(AppendFrame(frame, 64u << 20, &bytes).ok());
  return bytes;
}

// A server on a thread of its own, which clients reach from 127.0.0.1 and from 127.0.0.2.
class RpcShareTest : public testing::Test {
 protected:
  ~RpcShareTest() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }
  void StartServer(RpcServer::Options options) {
    options.listen_address = "127.0.0.1:0";
    server_ = RpcServer::Create(io_.get_executor(), options,
                                [this](const RpcPeer&, std::string_view,
                                       std::string body) -> awaitable<Result<std::string>> {
                                  ++handled_;
                                  co_return std::to_string(body.size());
                                })
                  .value();
    const std::string address = server_->address();
    port_ = static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
    thread_ = std::thread([this] { io_.run(); });
  }
  tcp::socket ConnectFrom(const std::string& host) {
    tcp::socket socket(client_io_, tcp::v4());
    socket.bind({boost::asio::ip::make_address(host), 0});
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), port_});
    return socket;
  }
  ChannelSecurity Security(Role role, const std::string& name) {
    return ca_.Security(scratch_.path() / name, role, name);
  }
  // How many bytes the handler saw, or what went wrong.
  std::string Send(const ChannelSecurity& security, const std::string& method, size_t bytes) {
    const auto reply =
        RpcCallOnce({server_->address()}, method, std::string(bytes, 'x'), seconds(10), security);
    return reply.has_value() ? *reply : reply.error().ToString();
  }

  test::ScratchDir scratch_;
  test::TestCa ca_;
  boost::asio::io_context io_;
  boost::asio::io_context client_io_;
  std::unique_ptr<RpcServer> server_;
  uint16_t port_ = 0;
  std::thread thread_;
  std::atomic<int> handled_{0};
};

TEST_F(RpcShareTest, AHostFullOfHandshakesKeepsNoOtherHostOut) {
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  options.handshakes_max = 4;
  StartServer(options);
  tcp::socket other = ConnectFrom("127.0.0.2");
  std::vector<tcp::socket> flood;
  for (size_t i = 0; i < 40; ++i) {
    flood.push_back(ConnectFrom("127.0.0.1"));
    if (i >= 3) {
      EXPECT_TRUE(test::ClosesWithin(flood[i - 3], kPatience)) << i;
    }
  }
  EXPECT_FALSE(test::ClosesWithin(other, milliseconds(0)));
}

TEST_F(RpcShareTest, AReadersFramesAreShortAndAnOperatorsMayBeLong) {
  RpcServer::Options options;
  options.security = Security(Role::kCoordinator, "c0");
  StartServer(options);
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  EXPECT_EQ(Send(reader, "session.Open", 100'000), "100000");
  EXPECT_NE(Send(reader, "session.Open", kReaderFrameBytesMax),
            std::to_string(kReaderFrameBytesMax));
  EXPECT_EQ(Send(Security(Role::kOperator, "ann"), "session.Open", 1u << 20),
            std::to_string(1u << 20));
  EXPECT_EQ(handled_, 2);
}

TEST_F(RpcShareTest, OfTooManyHalfSentFramesTheHostWithMostLosesItsLargest) {
  constexpr size_t kHalf = 400'000;
  RpcServer::Options options;
  options.coming_bytes_max = 3u << 20;
  StartServer(options);
  const std::string frame = FrameOf(2 * kHalf);
  tcp::socket other = ConnectFrom("127.0.0.2");
  boost::asio::write(other, boost::asio::buffer(frame.data(), kHalf));
  std::vector<tcp::socket> flood;
  for (int i = 0; i < 20; ++i) {
    flood.push_back(ConnectFrom("127.0.0.1"));
    boost::system::error_code ignored;
    boost::asio::write(flood.back(), boost::asio::buffer(frame.data(), kHalf), ignored);
  }
  // Each half takes 400 kB at least, so all of them would take 8 MB.
  size_t closed = 0;
  for (int i = 0; closed < 13 && i < 1000; ++i) {
    closed = 0;
    for (tcp::socket& socket : flood) closed += test::ClosesWithin(socket, milliseconds(0)) ? 1 : 0;
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_GE(closed, 13u);
  EXPECT_LT(closed, flood.size());
  EXPECT_FALSE(test::ClosesWithin(other, milliseconds(0)));
  boost::asio::write(other, boost::asio::buffer(frame.data() + kHalf, frame.size() - kHalf));
  for (int i = 0; handled_ == 0 && i < 1000; ++i) std::this_thread::sleep_for(milliseconds(10));
  EXPECT_EQ(handled_, 1);
}

TEST(FrameMemoryTest, AFrameThatIsComingTakesLittleMoreThanItselfAndNothingAfterwards) {
  const std::string bytes = FrameOf(120'000);
  FrameDecoder decoder(kReaderFrameBytesMax);
  size_t most = 0;
  for (size_t sent = 0; sent < bytes.size();) {
    const auto room = decoder.Prepare();
    most = std::max(most, decoder.coming_bytes());
    const size_t count = std::min({room.size(), bytes.size() - sent, size_t{1000}});
    std::copy_n(bytes.data() + sent, count, room.data());
    decoder.Commit(count);
    sent += count;
    const auto next = decoder.Next();
    ASSERT_TRUE(next.has_value());
    EXPECT_EQ(next->has_value(), sent == bytes.size());
  }
  EXPECT_GT(most, 64'000u);
  EXPECT_LE(most, bytes.size());
  EXPECT_EQ(decoder.coming_bytes(), 0u);
}

TEST(HostQueueTest, TheOldestOfTheHostWithMostGoesOnce) {
  HostQueue queue;
  std::string closed;
  const auto add = [&](const std::string& host, const std::string& name) {
    return queue.Add(host, [&closed, name] { closed += name; });
  };
  (void)add("a", "1");
  (void)add("b", "2");
  const uint64_t third = add("b", "3");
  (void)add("b", "4");
  queue.CloseOne();
  EXPECT_EQ(closed, "2");
  queue.Remove(third);
  queue.Remove(third);
  EXPECT_EQ(queue.size(), 2u);
  queue.CloseAll();
  EXPECT_EQ(queue.size(), 0u);
  queue.CloseOne();
  EXPECT_EQ(closed.size(), 3u);
}

TEST(IsFreeTest, OneAloneHasHalfAndTwoAThirdEach) {
  EXPECT_TRUE(IsFree(0, 1, 0, 1));
  EXPECT_TRUE(IsFree(49, 1, 49, 100));
  EXPECT_FALSE(IsFree(50, 1, 50, 100));
  EXPECT_TRUE(IsFree(0, 1, 50, 100));
  EXPECT_FALSE(IsFree(34, 1, 68, 100));
  EXPECT_FALSE(IsFree(0, 1, 200, 100));
}

}  // namespace
}  // namespace engram
