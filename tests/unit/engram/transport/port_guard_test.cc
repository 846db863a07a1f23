#include "engram/transport/ucx/port_guard.h"

#include <chrono>
#include <memory>
#include <thread>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <gtest/gtest.h>

#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using boost::asio::ip::tcp;

// A listening socket as UCX opens them: made between the guard and Guard, its port in the address.
class PortGuardTest : public testing::Test {
 protected:
  PortGuardTest() : other_(io_, LoopbackEndpoint(1)) {
    guard_ = std::make_unique<PortGuard>();
    guarded_ = std::make_unique<tcp::acceptor>(io_, LoopbackEndpoint(1));
    EXPECT_TRUE(guard_->Guard("address of " + PortBytes(*guarded_)).ok());
  }
  static tcp::endpoint LoopbackEndpoint(int host) {
    return {boost::asio::ip::make_address("127.0.0." + std::to_string(host)), 0};
  }
  static std::string PortBytes(const tcp::acceptor& acceptor) {
    const uint16_t port = acceptor.local_endpoint().port();
    return {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
  }
  // From 127.0.0.`host`. A packet that is dropped is answered by nobody.
  bool Connects(const tcp::acceptor& acceptor, int host) {
    auto socket = std::make_shared<tcp::socket>(io_, LoopbackEndpoint(host));
    bool connected = false;
    socket->async_connect(acceptor.local_endpoint(),
                          [&connected](boost::system::error_code error) { connected = !error; });
    io_.restart();
    io_.run_for(std::chrono::milliseconds(200));
    boost::system::error_code ignored;
    socket->close(ignored);
    io_.restart();
    io_.run_for(std::chrono::milliseconds(50));
    return connected;
  }

  boost::asio::io_context io_;
  tcp::acceptor other_;  // of this process, not UCX's
  std::unique_ptr<PortGuard> guard_;
  std::unique_ptr<tcp::acceptor> guarded_;
};

TEST_F(PortGuardTest, NobodyConnectsWhoIsNotAdmitted) {
  ASSERT_EQ(guard_->port_count(), 1u);
  EXPECT_FALSE(Connects(*guarded_, 1));
  EXPECT_TRUE(Connects(other_, 1));
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(Connects(*guarded_, 2));
  EXPECT_FALSE(Connects(*guarded_, 1));
  EXPECT_FALSE(Connects(*guarded_, 3));
}

TEST_F(PortGuardTest, AHostIsOutWhenItWasExpelledAsOftenAsAdmitted) {
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  ASSERT_TRUE(guard_->Admit("::ffff:127.0.0.2").ok());  // the same
  guard_->Expel("127.0.0.2");
  EXPECT_TRUE(Connects(*guarded_, 2));
  guard_->Expel("127.0.0.2");
  EXPECT_FALSE(Connects(*guarded_, 2));
  guard_->Expel("127.0.0.2");  // once too often
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(Connects(*guarded_, 2));
}

TEST_F(PortGuardTest, ManyHostsAndBothVersionsOfIp) {
  for (int i = 0; i < 900; ++i) {
    const std::string host = "10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250);
    ASSERT_TRUE(guard_->Admit(host).ok()) << i;
  }
  for (int i = 0; i < 90; ++i) {
    ASSERT_TRUE(guard_->Admit("fd00::" + std::to_string(i)).ok()) << i;
  }
  EXPECT_FALSE(Connects(*guarded_, 2));
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(Connects(*guarded_, 2));
  for (int i = 0; i < 9; ++i) ASSERT_TRUE(guard_->Admit("10.9.9." + std::to_string(i)).ok());
  EXPECT_EQ(guard_->Admit("10.8.8.8").code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(Connects(*guarded_, 2));
}

TEST_F(PortGuardTest, WhatIsNoAddressIsRefused) {
  EXPECT_EQ(guard_->Admit("").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(guard_->Admit("gpu-1").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(guard_->Admit("10.0.0.256").code(), StatusCode::kInvalidArgument);
}

TEST(PortGuardHostsTest, OwnHostsHaveLoopback) {
  const std::vector<std::string> hosts = OwnHosts();
  EXPECT_NE(std::find(hosts.begin(), hosts.end(), "127.0.0.1"), hosts.end());
}

// The real thing: UCX's own ports of a node that has a session open, and of its reader.
TEST(PortGuardUcxTest, UcxPortsAreClosedToHostsWithoutASession) {
  const std::vector<uint16_t> before = test::ListeningPorts();
  test::UcxFixture f({"", "tcp", "off", ReadWay::kGather});
  f.Start();
  const SessionId session = f.OpenSession();
  const auto rows = f.OwnedRows(100);
  f.ExpectStored(f.Read(session, 1, rows), rows);
  boost::asio::io_context io;
  int ports = 0;
  const auto control = f.server_->address();
  for (const uint16_t port : test::ListeningPorts()) {
    const bool old = std::find(before.begin(), before.end(), port) != before.end();
    if (old || control.ends_with(":" + std::to_string(port))) continue;
    ++ports;
    // 127.9.9.9 is no address of an interface, so no session is of that host.
    tcp::socket socket(io, {boost::asio::ip::make_address("127.9.9.9"), 0});
    bool connected = false;
    socket.async_connect({boost::asio::ip::make_address("127.0.0.1"), port},
                         [&connected](boost::system::error_code error) { connected = !error; });
    io.restart();
    io.run_for(std::chrono::milliseconds(200));
    EXPECT_FALSE(connected) << "port " << port;
    socket.close();
    io.restart();
    io.run_for(std::chrono::milliseconds(20));
  }
  EXPECT_GE(ports, 2);  // the node's gather thread and the reader
}

}  // namespace
}  // namespace engram
