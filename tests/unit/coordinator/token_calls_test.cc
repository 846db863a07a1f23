// The keys of session tokens across the terms of coordinators.
#include <chrono>
#include <cstring>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/security/session_token.h"
#include "tests/unit/coordinator/following_fixture.h"

namespace engram {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr const char* kAddress = "127.0.0.1:7100";  // the fixture's node

class TokenCallsTest : public FollowingServiceTest {
 protected:
  TokenCallsTest() {
    options_.token_lifetime = std::chrono::seconds(3600);
    PeerIdentity identity;
    identity.name = "a";
    identity.role = Role::kNode;
    peer_.identity = std::make_shared<const PeerIdentity>(identity);
  }
  proto::GetTokensReply Tokens(uint64_t version) {
    proto::GetTokensRequest request;
    request.set_version(version);
    request.add_addresses("127.0.0.1:7999");  // of no node
    request.add_addresses(kAddress);
    return Parse<proto::GetTokensReply>(Call("directory.GetTokens", request.SerializeAsString()));
  }
  // That the node knows all it was told but the keys.
  static std::string QuietHeartbeat(const proto::HeartbeatReply& told) {
    proto::HeartbeatRequest request;
    EXPECT_TRUE(request.ParseFromString(HeartbeatBody("a", 11, kForeverMs)));
    request.add_known_versions(told.changed(0).version());
    request.add_known_assignment_revisions(told.changed(0).revision());
    return request.SerializeAsString();
  }
  template <typename Message>
  static void TakeKeys(const Message& reply, TokenKeys* keys) {
    for (const proto::TokenKey& message : reply.token_keys()) {
      TokenKey key;
      key.id = message.id();
      ASSERT_EQ(message.secret().size(), key.secret.size());
      std::memcpy(key.secret.data(), message.secret().data(), key.secret.size());
      key.good_until = UnixSeconds(message.good_until());
      keys->Add(key, UnixNow());
    }
  }
};

TEST_F(TokenCallsTest, ANewLeaderSaysWhichNodesItHasNotToldOfItsKeys) {
  BecomeLeader(5);
  TokenKeys node;
  TakeKeys(Parse<proto::RegisterNodeReply>(Register("a", 11)), &node);
  const uint64_t version = CreateVersion();
  const auto before = Tokens(version);
  EXPECT_THAT(before.untold(), IsEmpty());
  EXPECT_TRUE(
      node.Verify(before.tokens(1), "a", TableVersion(version), kAddress, UnixNow()).has_value());

  // Another process leads, with keys of its own, and has not heard of the node.
  service_->Stop();
  Changed();
  service_ = std::make_unique<CoordinatorService>(
      io_.get_executor(), std::make_unique<SharedStore>(&world_), options_,
      [this](const Status& status) { fatal_ = status; });
  world_.leadership = {0, "", nullptr, {}};
  ASSERT_TRUE(service_->Start("there:1").ok());
  BecomeLeader(6);
  const auto early = Tokens(version);
  ASSERT_EQ(early.tokens_size(), 2);
  EXPECT_THAT(early.untold(), ElementsAre(1));
  EXPECT_EQ(
      node.Verify(early.tokens(1), "a", TableVersion(version), kAddress, UnixNow()).error().code(),
      StatusCode::kUnavailable);
  // What the old leader signed is good still.
  EXPECT_TRUE(
      node.Verify(before.tokens(1), "a", TableVersion(version), kAddress, UnixNow()).has_value());

  TakeKeys(Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, 0))), &node);
  EXPECT_THAT(Tokens(version).untold(), IsEmpty());
  EXPECT_TRUE(
      node.Verify(early.tokens(1), "a", TableVersion(version), kAddress, UnixNow()).has_value());
}

TEST_F(TokenCallsTest, AKeyIsToldAtOnceAndOnce) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  CreateVersion();
  BecomeFollower("there:1");
  BecomeLeader(6);
  const auto told =
      Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs)));
  EXPECT_EQ(told.token_keys_size(), 1);
  // It did not take the key: it hears of it again, in its time.
  const Reply held = BeginCall("node.Heartbeat", QuietHeartbeat(told));
  EXPECT_FALSE(held->has_value());
  service_->Stop();
  EXPECT_EQ(Parse<proto::HeartbeatReply>(Await(held)).token_keys_size(), 1);
}

TEST_F(TokenCallsTest, AHeartbeatWithNothingElseToHearIsAnsweredForAKey) {
  BecomeLeader(5);
  ASSERT_TRUE(Register("a", 11).has_value());
  BecomeFollower("there:1");
  BecomeLeader(6);
  const auto told =
      Parse<proto::HeartbeatReply>(Call("node.Heartbeat", HeartbeatBody("a", 11, kForeverMs)));
  EXPECT_EQ(told.changed_size(), 0);
  EXPECT_EQ(told.token_keys_size(), 1);
}

TEST_F(TokenCallsTest, ANodeThatHasTheKeysAlreadyIsTaken) {
  BecomeLeader(5);
  const auto registered = Parse<proto::RegisterNodeReply>(Register("a", 11));
  const uint64_t version = CreateVersion();
  BecomeFollower("there:1");
  BecomeLeader(6);  // this process led before
  EXPECT_THAT(Tokens(version).untold(), ElementsAre(1));
  proto::HeartbeatRequest heartbeat;
  ASSERT_TRUE(heartbeat.ParseFromString(HeartbeatBody("a", 11, 0)));
  heartbeat.add_known_token_keys(registered.token_keys(0).id());
  EXPECT_EQ(Parse<proto::HeartbeatReply>(Call("node.Heartbeat", heartbeat.SerializeAsString()))
                .token_keys_size(),
            0);
  EXPECT_THAT(Tokens(version).untold(), IsEmpty());
}

}  // namespace
}  // namespace engram
