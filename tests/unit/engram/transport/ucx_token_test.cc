// Sessions of a node that wants tokens: nothing without one, nothing after it has lapsed.
#include <atomic>
#include <chrono>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/security/session_token.h"
#include "tests/unit/engram/transport/ucx_fixture.h"

namespace engram {
namespace {

using testing::HasSubstr;

constexpr test::UcxSetting kTcp{"Tcp", "tcp", "off", ReadWay::kGather};

// Without TLS a client has no name: "".
class UcxTokenTest : public testing::Test {
 protected:
  UcxTokenTest() {
    keys_ = std::make_shared<TokenKeys>();
    keys_->Add(TokenKey::Make(UnixNow() + UnixSeconds(3600)).value(), UnixNow());
    UcxRowServerOptions server = f_.ServerOptions();
    server.token_keys = keys_;
    f_.StartServer(server);
  }
  std::string Token(UnixSeconds lives) {
    return keys_->Sign({"", test::kVersion, f_.server_->address(), UnixNow() + lives}, UnixNow())
        .value();
  }
  void StartReader(std::function<std::string()> token) {
    UcxTransportOptions reader = f_.ReaderOptions();
    reader.token_of = [token = std::move(token)](TableVersion, const std::string&) {
      return token();
    };
    f_.StartReader(reader);
  }

  test::UcxFixture f_{kTcp};
  std::shared_ptr<TokenKeys> keys_;
};

TEST_F(UcxTokenTest, WithAGoodTokenRowsAreRead) {
  StartReader([this] { return Token(UnixSeconds(600)); });
  const SessionId session = f_.OpenSession();
  const auto rows = f_.OwnedRows(20);
  f_.ExpectStored(f_.Read(session, 1, rows), rows);
}

TEST_F(UcxTokenTest, WithoutOrWithABadTokenThereIsNoSession) {
  std::string shown;
  StartReader([&shown] { return shown; });
  const Status missing = f_.Refusal(f_.Target());
  EXPECT_EQ(missing.code(), StatusCode::kPermissionDenied) << missing.ToString();
  EXPECT_THAT(missing.message(), HasSubstr("missing"));
  shown = "rubbish";
  EXPECT_EQ(f_.Refusal(f_.Target()).code(), StatusCode::kPermissionDenied);
  const UnixSeconds soon = UnixNow() + UnixSeconds(60);
  const std::string address = f_.server_->address();
  shown = keys_->Sign({"", TableVersion(99), address, soon}, UnixNow()).value();
  EXPECT_THAT(f_.Refusal(f_.Target()).message(), HasSubstr("another version"));
  shown = keys_->Sign({"", test::kVersion, "127.0.0.1:1", soon}, UnixNow()).value();
  EXPECT_THAT(f_.Refusal(f_.Target()).message(), HasSubstr("another node"));
  shown = keys_->Sign({"gpu-1", test::kVersion, address, soon}, UnixNow()).value();
  EXPECT_THAT(f_.Refusal(f_.Target()).message(), HasSubstr("somebody else's"));
  shown =
      keys_->Sign({"", test::kVersion, address, UnixNow() - UnixSeconds(60)}, UnixNow()).value();
  EXPECT_THAT(f_.Refusal(f_.Target()).message(), HasSubstr("lapsed"));
}

TEST_F(UcxTokenTest, ASessionEndsWhenItsTokenLapses) {
  // Clocks might differ: it is taken for so much longer.
  const std::string token = Token(UnixSeconds(2) - kTokenClockSkew);
  StartReader([token] { return token; });
  const SessionId session = f_.OpenSession();
  const auto rows = f_.OwnedRows(5);
  f_.ExpectStored(f_.Read(session, 1, rows), rows);
  ASSERT_TRUE(f_.Drive([&] { return f_.events_->closed.contains(session); }));
  EXPECT_TRUE(f_.Drive([&] { return f_.server_->stats().sessions_open == 0; }));
}

TEST_F(UcxTokenTest, ASessionThatIsRenewedGoesOn) {
  StartReader([this] { return Token(UnixSeconds(1)); });
  const SessionId session = f_.OpenSession();
  const auto rows = f_.OwnedRows(5);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(8);
  uint64_t tag = 1;
  while (std::chrono::steady_clock::now() < end) {
    f_.ExpectStored(f_.Read(session, tag++, rows), rows);
    ASSERT_FALSE(f_.events_->closed.contains(session)) << f_.events_->closed.at(session).ToString();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

}  // namespace
}  // namespace engram
