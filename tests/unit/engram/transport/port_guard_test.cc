#include "engram/transport/ucx/port_guard.h"

#include <chrono>
#include <memory>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <gtest/gtest.h>

#include "tests/support/child_process.h"
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
    guard_->Guard("address of " + PortBytes(*guarded_));
  }
  static tcp::endpoint LoopbackEndpoint(int host) {
    return {boost::asio::ip::make_address("127.0.0." + std::to_string(host)), 0};
  }
  static std::string PortBytes(const tcp::acceptor& acceptor) {
    const uint16_t port = acceptor.local_endpoint().port();
    return {static_cast<char>(port >> 8), static_cast<char>(port & 0xff)};
  }
  // Whether somebody from 127.0.0.`host` comes in.
  bool LetsIn(tcp::acceptor& acceptor, int host) {
    tcp::socket caller(io_, LoopbackEndpoint(host));
    tcp::socket called(io_);
    bool accepted = false;
    acceptor.async_accept(called,
                          [&accepted](boost::system::error_code error) { accepted |= !error; });
    caller.async_connect(acceptor.local_endpoint(), [](boost::system::error_code) {});
    io_.restart();
    const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(200);
    while (!accepted && std::chrono::steady_clock::now() < end) io_.run_one_until(end);
    acceptor.cancel();
    caller.close();
    io_.restart();
    io_.run_for(std::chrono::milliseconds(20));
    return accepted;
  }

  // The called side of a connection from 127.0.0.`host`; closed where it was turned away.
  tcp::socket Accepted(int host) {
    tcp::socket called(io_);
    callers_.emplace_back(io_, LoopbackEndpoint(host));
    callers_.back().connect(guarded_->local_endpoint());
    guarded_->non_blocking(true);
    boost::system::error_code error;
    guarded_->accept(called, error);
    return called;
  }

  boost::asio::io_context io_;
  std::vector<tcp::socket> callers_;
  tcp::acceptor other_;  // of this process, not UCX's
  std::unique_ptr<PortGuard> guard_;
  std::unique_ptr<tcp::acceptor> guarded_;
};

TEST_F(PortGuardTest, NobodyConnectsWhoIsNotAdmitted) {
  ASSERT_EQ(guard_->port_count(), 1u);
  EXPECT_FALSE(LetsIn(*guarded_, 1));
  EXPECT_TRUE(LetsIn(other_, 1));
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(LetsIn(*guarded_, 2));
  EXPECT_FALSE(LetsIn(*guarded_, 1));
  EXPECT_FALSE(LetsIn(*guarded_, 3));
}

TEST_F(PortGuardTest, AHostIsOutWhenItWasExpelledAsOftenAsAdmitted) {
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  ASSERT_TRUE(guard_->Admit("::ffff:127.0.0.2").ok());  // the same
  guard_->Expel("127.0.0.2");
  EXPECT_TRUE(LetsIn(*guarded_, 2));
  guard_->Expel("127.0.0.2");
  EXPECT_FALSE(LetsIn(*guarded_, 2));
  guard_->Expel("127.0.0.2");  // once too often
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(LetsIn(*guarded_, 2));
}

TEST(PortGuardAuditTest, WhoIsTurnedAwayIsInTheAuditLog) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  auto audit = AuditLog::Open({.file = file});
  ASSERT_TRUE(audit.has_value());
  PortGuard guard(std::chrono::milliseconds(0), *audit);
  boost::asio::io_context io;
  tcp::acceptor guarded(io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  const uint16_t port = guarded.local_endpoint().port();
  guard.Guard({static_cast<char>(port >> 8), static_cast<char>(port & 0xff)});
  // What is told of this process a second is bounded: another test may have had it.
  std::string told;
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (told.empty() && std::chrono::steady_clock::now() < end) {
    tcp::socket caller(io);
    caller.connect(guarded.local_endpoint());
    guarded.non_blocking(true);
    boost::system::error_code error;
    tcp::socket called(io);
    guarded.accept(called, error);
    EXPECT_TRUE(error.failed());
    told = test::ReadFile(RefusalsBeside(file));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  EXPECT_NE(told.find("\"from\":\"127.0.0.1\""), std::string::npos) << told;
  EXPECT_NE(told.find("\"what\":\"data connection\""), std::string::npos) << told;
  EXPECT_NE(told.find("\"outcome\":\"PERMISSION_DENIED\""), std::string::npos) << told;
  EXPECT_NE(told.find("no session is of that host"), std::string::npos) << told;
}

// Somebody with one session who connects and connects would have all descriptors.
TEST_F(PortGuardTest, AHostHasAsManyConnectionsAsItsSessionsCanNeed) {
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  const size_t most = kConnectionsOfHost + kConnectionsOfSession;
  std::vector<tcp::socket> called;
  for (size_t i = 0; i < most; ++i) {
    called.push_back(Accepted(2));
    ASSERT_TRUE(called.back().is_open()) << i;
  }
  EXPECT_FALSE(Accepted(2).is_open());
  called.pop_back();  // what is closed counts no more
  called.push_back(Accepted(2));
  EXPECT_TRUE(called.back().is_open());
  // What it has stays counted though its session ends and another begins.
  guard_->Expel("127.0.0.2");
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_FALSE(Accepted(2).is_open());
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());  // a second one
  EXPECT_TRUE(Accepted(2).is_open());
  ASSERT_TRUE(guard_->Admit("127.0.0.3").ok());
  EXPECT_TRUE(Accepted(3).is_open());
}

TEST_F(PortGuardTest, WhereSomebodyCallsFromHasRoomInAnyCase) {
  for (size_t i = 0; i < PortGuard::kHostsMax; ++i) {
    ASSERT_TRUE(
        guard_->Admit("10.7." + std::to_string(i / 256) + "." + std::to_string(i % 256)).ok());
  }
  EXPECT_EQ(guard_->Admit("127.0.0.2").code(), StatusCode::kResourceExhausted);
  EXPECT_FALSE(LetsIn(*guarded_, 2));
  EXPECT_TRUE(guard_->Admit("127.0.0.2", PortGuard::Room::kAlways).ok());
  EXPECT_TRUE(LetsIn(*guarded_, 2));
}

TEST_F(PortGuardTest, ManyHostsAndBothVersionsOfIp) {
  for (int i = 0; i < 900; ++i) {
    const std::string host = "10.0." + std::to_string(i / 250) + "." + std::to_string(i % 250);
    ASSERT_TRUE(guard_->Admit(host).ok()) << i;
  }
  for (int i = 0; i < 90; ++i) {
    ASSERT_TRUE(guard_->Admit("fd00::" + std::to_string(i)).ok()) << i;
  }
  EXPECT_FALSE(LetsIn(*guarded_, 2));
  ASSERT_TRUE(guard_->Admit("127.0.0.2").ok());
  EXPECT_TRUE(LetsIn(*guarded_, 2));
  ASSERT_TRUE(guard_->Admit("fd00:1:0::0007").ok());
  EXPECT_TRUE(guard_->LetsIn("fd00:1::7"));
  EXPECT_FALSE(guard_->LetsIn("fd00:1::8"));
}

TEST_F(PortGuardTest, WhatIsNoAddressIsRefused) {
  EXPECT_EQ(guard_->Admit("").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(guard_->Admit("gpu-1").code(), StatusCode::kInvalidArgument);
  EXPECT_EQ(guard_->Admit("10.0.0.256").code(), StatusCode::kInvalidArgument);
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
    boost::system::error_code refused;  // the port of another interface than loopback
    socket.connect({boost::asio::ip::make_address("127.0.0.1"), port}, refused);
    if (refused) continue;
    bool closed = false;  // UCX itself would wait for us to say who we are
    char byte = 0;
    boost::asio::async_read(
        socket, boost::asio::buffer(&byte, 1),
        [&closed](boost::system::error_code error, size_t) { closed = static_cast<bool>(error); });
    io.restart();
    io.run_for(std::chrono::seconds(5));
    EXPECT_TRUE(closed) << "port " << port;
  }
  EXPECT_GE(ports, 2);  // the node's gather thread and the reader
}

}  // namespace
}  // namespace engram
