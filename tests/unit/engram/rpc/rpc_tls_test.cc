// Calls under mutual TLS: who gets in, who may what, and what everybody else is told.
#include <chrono>
#include <fstream>
#include <string>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/write.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/support/child_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::ip::tcp;
using std::chrono::milliseconds;
using test::TestCa;
using testing::HasSubstr;

constexpr milliseconds kPatience{2000};

// A server on a thread of its own. It answers every method with who called it.
class RpcTlsTest : public testing::Test {
 protected:
  ~RpcTlsTest() override { StopServer(); }

  void StartServer(const ChannelSecurity& security) {
    RpcServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.security = security;
    options.connections_max = 8;
    options.audit = AuditLog::Open({.file = audit_file()}).value();
    options.describe = [this](std::string_view, const std::string& body) {
      ++described_;
      return body;
    };
    auto server = RpcServer::Create(io_.get_executor(), options,
                                    [this](const RpcPeer& peer, std::string_view,
                                           std::string) -> awaitable<Result<std::string>> {
                                      ++handled_;
                                      if (refuse_) {
                                        co_return Error(StatusCode::kPermissionDenied, "no");
                                      }
                                      co_return peer.identity == nullptr
                                          ? std::string("nobody")
                                          : std::string(RoleName(peer.identity->role)) + " " +
                                                peer.identity->name;
                                    });
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = *std::move(server);
    thread_ = std::thread([this] { io_.run(); });
  }
  void StopServer() {
    io_.stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
  }
  void StartCoordinator() { StartServer(Security(Role::kCoordinator, "c0")); }

  [[nodiscard]] std::filesystem::path audit_file() const { return scratch_.path() / "audit.log"; }
  // "who what about outcome" of each entry: of changes, then of refusals.
  [[nodiscard]] std::vector<std::string> Audited() const {
    std::vector<std::string> entries;
    for (const auto& file : {audit_file(), RefusalsBeside(audit_file())}) {
      std::ifstream in(file);
      for (std::string line; std::getline(in, line);) {
        const auto entry = nlohmann::json::parse(line);
        entries.push_back(
            entry.at("who").get<std::string>() + " " + entry.at("what").get<std::string>() + " " +
            entry.at("about").get<std::string>() + " " + entry.at("outcome").get<std::string>());
        EXPECT_THAT(entry.at("from").get<std::string>(), HasSubstr("127.0.0.1:"));
      }
    }
    return entries;
  }
  ChannelSecurity Security(Role role, const std::string& name) {
    return ca_.Security(scratch_.path() / name, role, name);
  }
  Result<std::string> Call(const ChannelSecurity& security, std::string_view method,
                           const std::string& body = "") {
    return RpcCallOnce({server_->address()}, method, body, kPatience, security);
  }

  test::ScratchDir scratch_;
  TestCa ca_;
  boost::asio::io_context io_;
  std::unique_ptr<RpcServer> server_;
  std::thread thread_;
  std::atomic<int> handled_{0};
  std::atomic<int> described_{0};
  std::atomic<bool> refuse_{false};
};

TEST_F(RpcTlsTest, TheServerKnowsWhoCalls) {
  StartCoordinator();
  EXPECT_EQ(Call(Security(Role::kReader, "gpu-1"), "directory.GetShardMap").value(),
            "reader gpu-1");
  EXPECT_EQ(Call(Security(Role::kOperator, "ann"), "admin.DrainNode").value(), "operator ann");
}

TEST_F(RpcTlsTest, WhatARoleMayNotDoNeverReachesTheHandler) {
  StartCoordinator();
  const auto refused = Call(Security(Role::kReader, "gpu-1"), "admin.DrainNode");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refused.error().message(), HasSubstr("'gpu-1'"));
  EXPECT_EQ(handled_, 0);
}

TEST_F(RpcTlsTest, ChangesAndRefusalsAreInTheAuditLogAndNothingElse) {
  StartCoordinator();
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  const ChannelSecurity ann = Security(Role::kOperator, "ann");
  (void)Call(reader, "directory.GetShardMap");
  (void)Call(reader, "admin.DrainNode", "m1");
  (void)Call(ann, "admin.GetStatus");
  (void)Call(ann, "admin.DrainNode", "m0");
  (void)Call(ann, "node.Heartbeat");
  const TestCa other;
  (void)Call(other.Security(scratch_.path() / "eve", Role::kOperator, "eve"), "admin.DrainNode");
  // The client has found out before the server has written.
  for (int i = 0; Audited().size() < 4 && i < 500; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_THAT(
      Audited(),
      testing::ElementsAre("ann admin.DrainNode m0 OK", "gpu-1 admin.DrainNode  PERMISSION_DENIED",
                           "ann node.Heartbeat  PERMISSION_DENIED", " connect  PERMISSION_DENIED"));
}

TEST_F(RpcTlsTest, WhatACallerMayNotCallIsNotLookedInto) {
  StartCoordinator();
  (void)Call(Security(Role::kReader, "gpu-1"), "admin.CreateVersion", std::string(100'000, '\x01'));
  EXPECT_EQ(described_, 0);
  (void)Call(Security(Role::kOperator, "ann"), "admin.CreateVersion", std::string(100'000, '\x01'));
  EXPECT_EQ(described_, 1);
  for (const auto& file : {audit_file(), RefusalsBeside(audit_file())}) {
    EXPECT_LT(std::filesystem::file_size(file), 16u << 10) << file;
  }
}

TEST_F(RpcTlsTest, WhatAHandlerRefusesIsToldAtABoundedRate) {
  constexpr int kCalls = 200;
  StartCoordinator();
  refuse_ = true;
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  const auto began = std::chrono::steady_clock::now();
  boost::asio::io_context io;
  boost::asio::co_spawn(
      io,
      [&]() -> awaitable<void> {
        auto client =
            co_await RpcClient::Connect(io.get_executor(), server_->address(), kPatience, reader);
        EXPECT_TRUE(client.has_value());
        if (!client.has_value()) co_return;
        for (int i = 0; i < kCalls; ++i) {
          auto refused = co_await (*client)->CallRaw("session.Renew", "", kPatience);
          EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied);
        }
      },
      boost::asio::detached);
  io.run();
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  std::ifstream in(RefusalsBeside(audit_file()));
  int told = 0;
  for (std::string line; std::getline(in, line);) {
    told += nlohmann::json::parse(line).at("what") == "session.Renew" ? 1 : 0;
  }
  EXPECT_EQ(handled_, kCalls);
  EXPECT_GE(told, 20);
  EXPECT_LE(told, 20 * (took.count() + 1));
}

TEST_F(RpcTlsTest, ACertificateOfAnotherCaIsRefusedOnBothSides) {
  StartCoordinator();
  const TestCa other;
  const ChannelSecurity stranger =
      other.Security(scratch_.path() / "stranger", Role::kOperator, "stranger");
  const auto refused = Call(stranger, "admin.DrainNode");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied) << refused.error().ToString();
  EXPECT_THAT(refused.error().message(), HasSubstr("one CA"));
  EXPECT_EQ(handled_, 0);
}

TEST_F(RpcTlsTest, AServerThatTrustsUsAndWhomWeDoNotTrustIsNotSpokenTo) {
  // It has our CA beside its own, so only the client can find out.
  const TestCa other;
  const auto folder = scratch_.path() / "impostor";
  const ChannelSecurity impostor = other.Security(folder, Role::kCoordinator, "c0");
  StartServer(impostor);
  const auto refused = Call(Security(Role::kReader, "gpu-1"), "directory.GetShardMap");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied) << refused.error().ToString();
  EXPECT_EQ(handled_, 0);
}

TEST_F(RpcTlsTest, AReadersCertificateDoesNotMakeACoordinator) {
  StartServer(Security(Role::kReader, "gpu-2"));
  const auto refused = Call(Security(Role::kReader, "gpu-1"), "directory.GetShardMap");
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refused.error().message(), HasSubstr("'gpu-2' has a certificate of role reader"));
  EXPECT_EQ(handled_, 0);
}

TEST_F(RpcTlsTest, PlainAndTlsTellEachOtherApart) {
  StartCoordinator();
  const auto plain = Call({}, "directory.GetShardMap");
  ASSERT_FALSE(plain.has_value());
  EXPECT_EQ(handled_, 0);
  StopServer();
  io_.restart();
  StartServer({});
  const auto tls = Call(Security(Role::kReader, "gpu-1"), "directory.GetShardMap");
  ASSERT_FALSE(tls.has_value());
  EXPECT_THAT(tls.error().message(), HasSubstr("without certificates"));
  EXPECT_EQ(handled_, 0);
  EXPECT_EQ(Call({}, "directory.GetShardMap").value(), "nobody");
}

TEST_F(RpcTlsTest, NewCertificatesAreTakenWithoutARestart) {
  StartCoordinator();
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  EXPECT_EQ(Call(reader, "session.Open").value(), "reader gpu-1");
  // Both sides move to another CA; the objects stay.
  const TestCa next;
  next.Issue(scratch_.path() / "c0", Role::kCoordinator, "c0");
  next.Issue(scratch_.path() / "gpu-1", Role::kOperator, "gpu-1");
  std::this_thread::sleep_for(milliseconds(1100));  // the files are looked at once a second
  EXPECT_EQ(Call(reader, "session.Open").value(), "operator gpu-1");
  const auto old = ca_.Security(scratch_.path() / "old", Role::kReader, "old");
  EXPECT_EQ(Call(old, "session.Open").error().code(), StatusCode::kPermissionDenied);
}

TEST_F(RpcTlsTest, DamagedNewFilesLeaveTheOldOnes) {
  StartCoordinator();
  const ChannelSecurity reader = Security(Role::kReader, "gpu-1");
  std::filesystem::resize_file(scratch_.path() / "c0" / "tls.crt", 100);
  std::filesystem::remove(scratch_.path() / "gpu-1" / "tls.key");
  std::this_thread::sleep_for(milliseconds(1100));
  EXPECT_EQ(Call(reader, "session.Open").value(), "reader gpu-1");
}

TEST_F(RpcTlsTest, SilentAndRubbishConnectionsCostNobodyElseAnything) {
  StartCoordinator();
  boost::asio::io_context io;
  std::vector<tcp::socket> silent;
  const auto port = static_cast<uint16_t>(
      std::stoi(server_->address().substr(server_->address().rfind(':') + 1)));
  const tcp::endpoint endpoint(boost::asio::ip::make_address("127.0.0.1"), port);
  for (int i = 0; i < 3; ++i) {
    silent.emplace_back(io);
    silent.back().connect(endpoint);
  }
  for (int i = 0; i < 50; ++i) {
    tcp::socket socket(io);
    socket.connect(endpoint);
    std::string rubbish(static_cast<size_t>(1 + i * 37), static_cast<char>(i * 7));
    boost::system::error_code ignored;
    boost::asio::write(socket, boost::asio::buffer(rubbish), ignored);
  }
  EXPECT_EQ(Call(Security(Role::kReader, "gpu-1"), "session.Open").value(), "reader gpu-1");
  EXPECT_EQ(handled_, 1);
}

TEST(ChannelSecurityTest, WithoutCertificatesOnlyLoopbackUnlessForced) {
  boost::asio::io_context io;
  RpcServer::Options options;
  options.listen_address = "0.0.0.0:0";
  auto refused = RpcServer::Create(io.get_executor(), options, nullptr);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.error().message(), HasSubstr("--certs FOLDER"));
  options.security.insecure = true;
  EXPECT_TRUE(RpcServer::Create(io.get_executor(), options, nullptr).has_value());
  options.listen_address = "[::1]:0";
  options.security.insecure = false;
  const auto v6 = RpcServer::Create(io.get_executor(), options, nullptr);
  // Where there is IPv6 at all.
  EXPECT_TRUE(v6.has_value() || v6.error().code() == StatusCode::kIo);
}

TEST(TlsIdentityTest, WhatCannotBeUsedIsNamed) {
  const test::ScratchDir scratch;
  const TestCa ca;
  const auto folder = scratch.path() / "m0";
  EXPECT_THAT(TlsIdentity::Load(folder).error().message(), HasSubstr("m0/ca.crt is not there"));
  ca.Issue(folder, Role::kNode, "m0");
  ASSERT_TRUE(TlsIdentity::Load(folder).has_value());
  EXPECT_EQ(TlsIdentity::Load(folder).value()->own(), (PeerIdentity{Role::kNode, "m0"}));
  EXPECT_NEAR(static_cast<double>(TlsIdentity::Load(folder).value()->SecondsLeft()),
              kCertificateDays * 86400.0, 600);
  // Another certificate's key.
  ca.Issue(scratch.path() / "m1", Role::kNode, "m1");
  std::filesystem::copy_file(scratch.path() / "m1" / "tls.key", folder / "tls.key",
                             std::filesystem::copy_options::overwrite_existing);
  EXPECT_THAT(TlsIdentity::Load(folder).error().message(),
              HasSubstr("m0/tls.key is not the key of tls.crt"));
  ca.Issue(folder, Role::kNode, "m0");
  std::filesystem::resize_file(folder / "tls.crt", 200);
  EXPECT_THAT(TlsIdentity::Load(folder).error().message(), HasSubstr("m0/tls.crt"));
  std::filesystem::remove(folder / "tls.crt");
  EXPECT_THAT(TlsIdentity::Load(folder).error().message(), HasSubstr("m0/tls.crt is not there"));
}

}  // namespace
}  // namespace engram
