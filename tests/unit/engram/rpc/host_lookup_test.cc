#include "engram/rpc/host_lookup.h"

#include <functional>
#include <optional>
#include <string>
#include <thread>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/rpc/rpc_client.h"
#include "engram/rpc/rpc_server.h"
#include "tests/support/silent_names.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Found = Result<boost::asio::ip::tcp::resolver::results_type>;

class HostLookupTest : public testing::Test {
 protected:
  // Runs `body` on a thread where names are not answered for; false where none can be made.
  static bool InSilence(const std::function<void()>& body) {
    bool silent = false;
    std::thread([&] {
      const auto names = test::SilentNames::Create();
      silent = names.has_value();
      if (silent) body();
    }).join();
    return silent;
  }
  void Begin(const std::string& host, seconds allowed, std::optional<Found>* found) {
    boost::asio::co_spawn(
        io_,
        [this, host, allowed, found]() -> awaitable<void> {
          const HostPort wanted{host, 7100};
          *found = co_await LookUpHost(io_.get_executor(), wanted, SteadyClock().Now() + allowed);
        },
        boost::asio::detached);
  }

  boost::asio::io_context io_;
};

TEST_F(HostLookupTest, NumbersNeedNoLookup) {
  std::optional<Found> four;
  std::optional<Found> six;
  Begin("127.0.0.9", seconds(0), &four);
  Begin("::1", seconds(0), &six);
  io_.run();
  ASSERT_TRUE(four->has_value() && six->has_value());
  EXPECT_EQ((*four)->begin()->endpoint().address().to_string(), "127.0.0.9");
  EXPECT_EQ((*six)->begin()->endpoint().port(), 7100);
}

TEST_F(HostLookupTest, AnUnknownNameIsUnavailableAndKnownOnesAreFound) {
  std::optional<Found> known;
  std::optional<Found> again;
  std::optional<Found> unknown;
  Begin("localhost", seconds(60), &known);
  Begin("localhost", seconds(60), &again);
  Begin("no such host", seconds(60), &unknown);
  io_.run();
  ASSERT_TRUE(known->has_value() && again->has_value());
  EXPECT_TRUE((*known)->begin()->endpoint().address().is_loopback());
  EXPECT_EQ(unknown->error().code(), StatusCode::kUnavailable);
}

// What a client of a cluster does when a memory node's name is gone with its container.
TEST_F(HostLookupTest, AHostThatIsThereIsConnectedWhileAnotherNameIsLookedUp) {
  const bool ran = InSilence([&] {
    auto server = RpcServer::Create(io_.get_executor(), {.listen_address = "127.0.0.1:0"}, nullptr);
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    const std::string port = (*server)->address().substr((*server)->address().rfind(':'));
    Status gone;
    Status here(StatusCode::kInternal, "did not end");
    const auto connect = [&](std::string address, Status* status) -> awaitable<void> {
      auto client = co_await RpcClient::Connect(io_.get_executor(), address, seconds(5));
      *status = client.has_value() ? Status() : client.error();
      if (status == &here) io_.stop();
    };
    boost::asio::co_spawn(io_, connect("gone" + port, &gone), boost::asio::detached);
    boost::asio::co_spawn(io_, connect("here" + port, &here), boost::asio::detached);
    io_.run();
    EXPECT_TRUE(here.ok()) << here.ToString();
    EXPECT_TRUE(gone.ok()) << "the lookup of the other name ended first: " << gone.ToString();
  });
  if (!ran) GTEST_SKIP() << "no namespaces may be made here: root may";
}

TEST_F(HostLookupTest, ANameThatNobodyAnswersForIsGivenUpAtTheDeadline) {
  const bool ran = InSilence([&] {
    std::optional<Found> found;
    Begin("gone", seconds(0), &found);
    io_.run();
    ASSERT_FALSE(found->has_value());
    EXPECT_EQ(found->error().code(), StatusCode::kDeadlineExceeded);
    EXPECT_THAT(found->error().message(), testing::HasSubstr("'gone'"));
  });
  if (!ran) GTEST_SKIP() << "no namespaces may be made here: root may";
}

TEST_F(HostLookupTest, WhoWaitsMayBeDestroyedMeanwhile) {
  const bool ran = InSilence([&] {
    boost::asio::io_context io;
    std::optional<Found> found;
    {
      boost::asio::io_context short_lived;
      boost::asio::co_spawn(
          short_lived,
          [&]() -> awaitable<void> {
            const HostPort wanted{"gone", 1};
            found = co_await LookUpHost(short_lived.get_executor(), wanted,
                                        SteadyClock().Now() + seconds(60));
          },
          boost::asio::detached);
      short_lived.poll();
    }
    EXPECT_FALSE(found.has_value());
    // The same lookup, still going on, tells those who are there: it ends by itself.
    boost::asio::co_spawn(
        io,
        [&]() -> awaitable<void> {
          const HostPort wanted{"gone", 1};
          found = co_await LookUpHost(io.get_executor(), wanted, SteadyClock().Now() + seconds(60));
        },
        boost::asio::detached);
    io.run();
    ASSERT_FALSE(found->has_value());
    EXPECT_EQ(found->error().code(), StatusCode::kUnavailable);
  });
  if (!ran) GTEST_SKIP() << "no namespaces may be made here: root may";
}

}  // namespace
}  // namespace engram
