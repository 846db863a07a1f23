// A connection ends with the certificate that opened it, and with its CA.
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/support/child_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using std::chrono::hours;
using std::chrono::milliseconds;
using std::chrono::seconds;
using test::TestCa;
using testing::HasSubstr;

constexpr milliseconds kPatience{10'000};
constexpr int kTries = 300;  // of kPause each
constexpr milliseconds kPause{50};

// A server and its clients on one thread.
class RpcLapseTest : public testing::Test {
 protected:
  RpcLapseTest() {
    ca_.Issue(folder("c0"), Role::kCoordinator, "c0");
    RpcServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.security.identity = TlsIdentity::Load(folder("c0")).value();
    options.audit = AuditLog::Open({.file = scratch_.path() / "audit.log"}).value();
    server_ =
        RpcServer::Create(
            io_.get_executor(), options,
            [](const RpcPeer& peer, std::string_view,
               std::string) -> awaitable<Result<std::string>> { co_return peer.identity->name; },
            [this](const RpcPeer& peer) { ended_ += peer.identity->name + " "; })
            .value();
  }

  [[nodiscard]] std::filesystem::path folder(const std::string& name) const {
    return scratch_.path() / name;
  }
  // What is in `folder` trusts `other` too.
  void Trust(const std::string& name, const TestCa& other) {
    other.Issue(folder("other"), Role::kReader, "other");
    std::ofstream(folder(name) / "ca.crt", std::ios::app)
        << test::ReadFile(folder("other") / "ca.crt");
  }
  ChannelSecurity Load(const std::string& name) const {
    return {.identity = TlsIdentity::Load(folder(name)).value()};
  }
  void Run(const std::function<awaitable<void>()>& body) {
    bool ran = false;
    boost::asio::co_spawn(
        io_,
        [&]() -> awaitable<void> {
          co_await body();
          ran = true;
          io_.stop();
        },
        boost::asio::detached);
    io_.run();
    EXPECT_TRUE(ran);
  }
  awaitable<std::shared_ptr<RpcClient>> Connected(ChannelSecurity security) {
    auto client =
        co_await RpcClient::Connect(io_.get_executor(), server_->address(), kPatience, security);
    EXPECT_TRUE(client.has_value()) << client.error().ToString();
    std::shared_ptr<RpcClient> connected;
    if (client.has_value()) connected = *client;
    // A client is done with its handshake before the server is.
    auto first = co_await connected->CallRaw("directory.GetTokens", "", kPatience);
    EXPECT_TRUE(first.has_value()) << first.error().ToString();
    co_return connected;
  }
  awaitable<void> Pause() {
    boost::asio::steady_timer pause(io_, kPause);
    co_await pause.async_wait(boost::asio::use_awaitable);
  }
  // Calls again and again; the first error.
  awaitable<Status> CallUntilRefused(std::shared_ptr<RpcClient> client) {
    for (int i = 0; i < kTries; ++i) {
      auto reply = co_await client->CallRaw("directory.GetTokens", "", kPatience);
      if (!reply.has_value()) co_return reply.error();
      co_await Pause();
    }
    co_return Status();
  }
  [[nodiscard]] std::string Refusals() const {
    return test::ReadFile(scratch_.path() / "audit.refused.log");
  }

  test::ScratchDir scratch_;
  const TestCa ca_{test::UnixNow() - hours(48)};
  boost::asio::io_context io_{1};
  std::unique_ptr<RpcServer> server_;
  std::string ended_;  // whose connections
};

TEST_F(RpcLapseTest, WhoseCaWasDroppedIsAnsweredNoMoreAndOthersStay) {
  const TestCa next;
  Trust("c0", next);
  ca_.Issue(folder("old"), Role::kReader, "old");
  next.Issue(folder("new"), Role::kReader, "new");
  Trust("new", ca_);
  std::this_thread::sleep_for(milliseconds(1100));  // the files are looked at once a second
  Run([&]() -> awaitable<void> {
    auto old = co_await Connected(Load("old"));
    auto fresh = co_await Connected(Load("new"));
    next.Issue(folder("c0"), Role::kCoordinator, "c0");
    const Status refused = co_await CallUntilRefused(old);
    EXPECT_EQ(refused.code(), StatusCode::kPeerLost) << refused.ToString();
    auto reply = co_await fresh->CallRaw("directory.GetTokens", "", kPatience);
    EXPECT_EQ(reply.value_or(""), "new");
  });
  EXPECT_EQ(ended_, "old ");
  EXPECT_THAT(Refusals(), HasSubstr("\"who\":\"old\""));
  EXPECT_THAT(Refusals(), HasSubstr("not one of our CA any more"));
}

TEST_F(RpcLapseTest, AConnectionThatCallsNothingEndsWithItsCaToo) {
  ca_.Issue(folder("old"), Role::kReader, "old");
  Run([&]() -> awaitable<void> {
    auto client = co_await Connected(Load("old"));
    const TestCa next;
    next.Issue(folder("c0"), Role::kCoordinator, "c0");
    for (int i = 0; ended_.empty() && i < kTries; ++i) co_await Pause();
    EXPECT_EQ(ended_, "old ");
  });
}

TEST_F(RpcLapseTest, AConnectionEndsWithItsCertificate) {
  Run([&]() -> awaitable<void> {
    // Valid for some seconds more.
    ca_.Issue(folder("short"), {.role = Role::kReader, .name = "short", .hosts = {}, .days = 1},
              test::UnixNow() - hours(24) + seconds(5));
    auto client = co_await Connected(Load("short"));
    EXPECT_EQ(ended_, "");
    for (int i = 0; ended_.empty() && i < kTries; ++i) co_await Pause();
    EXPECT_EQ(ended_, "short ");
    auto reply = co_await client->CallRaw("directory.GetTokens", "", kPatience);
    EXPECT_FALSE(reply.has_value());
  });
  EXPECT_THAT(Refusals(), HasSubstr("has expired"));
}

TEST_F(RpcLapseTest, AServerWhoseCaWasDroppedIsCalledNoMore) {
  ca_.Issue(folder("gpu-1"), Role::kReader, "gpu-1");
  Run([&]() -> awaitable<void> {
    auto client = co_await Connected(Load("gpu-1"));
    const TestCa next;
    next.Issue(folder("gpu-1"), Role::kReader, "gpu-1");
    const Status refused = co_await CallUntilRefused(client);
    EXPECT_EQ(refused.code(), StatusCode::kPeerLost) << refused.ToString();
    EXPECT_THAT(refused.message(), HasSubstr("'c0' is not one of our CA any more"));
  });
}

}  // namespace
}  // namespace engram
