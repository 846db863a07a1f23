#include "engram/security/session_token.h"

#include <random>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::HasSubstr;

constexpr UnixSeconds kNow{1'800'000'000};
constexpr UnixSeconds kHour{3600};
const TokenClaims kClaims{"gpu-1", TableVersion(3), "10.0.0.1:7100", kNow + kHour};

TokenKey KeyUntil(UnixSeconds good_until) { return TokenKey::Make(good_until).value(); }

class SessionTokenTest : public testing::Test {
 protected:
  SessionTokenTest() {
    keys_.Add(KeyUntil(kNow + 3 * kHour), kNow);
    token_ = keys_.Sign(kClaims, kNow).value();
  }
  Status Verify(const std::string& token, UnixSeconds now = kNow) const {
    const auto claims = keys_.Verify(token, kClaims.client, kClaims.version, kClaims.node, now);
    return claims.has_value() ? Status() : claims.error();
  }
  TokenKeys keys_;
  std::string token_;
};

TEST_F(SessionTokenTest, SaysWhatItWasMadeWith) {
  EXPECT_EQ(keys_.Verify(token_, "gpu-1", TableVersion(3), "10.0.0.1:7100", kNow).value(), kClaims);
  // Known by its key where that was told.
  TokenKeys node;
  for (const TokenKey& key : keys_.All()) node.Add(key, kNow);
  EXPECT_TRUE(node.Verify(token_, "gpu-1", TableVersion(3), "10.0.0.1:7100", kNow).has_value());
}

TEST_F(SessionTokenTest, IsGoodForItsHolderVersionNodeAndTimeOnly) {
  const auto refusal = [&](const char* client, uint64_t version, const char* node,
                           UnixSeconds now = kNow) {
    return keys_.Verify(token_, client, TableVersion(version), node, now).error();
  };
  EXPECT_THAT(refusal("gpu-2", 3, "10.0.0.1:7100").message(), HasSubstr("somebody else's"));
  EXPECT_THAT(refusal("", 3, "10.0.0.1:7100").message(), HasSubstr("somebody else's"));
  EXPECT_THAT(refusal("gpu-1", 4, "10.0.0.1:7100").message(), HasSubstr("another version"));
  EXPECT_THAT(refusal("gpu-1", 3, "10.0.0.2:7100").message(), HasSubstr("another node"));
  EXPECT_TRUE(Verify(token_, kNow + kHour).ok());
  EXPECT_TRUE(Verify(token_, kNow + kHour + kTokenClockSkew - UnixSeconds(1)).ok());
  const Status lapsed = Verify(token_, kNow + kHour + kTokenClockSkew);
  EXPECT_EQ(lapsed.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(lapsed.message(), HasSubstr("lapsed"));
}

TEST_F(SessionTokenTest, NoByteCanBeChangedLeftOutOrAdded) {
  for (size_t i = 0; i < token_.size(); ++i) {
    for (const int mask : {1, 0x80, 0xff}) {
      std::string changed = token_;
      changed[i] = static_cast<char>(changed[i] ^ mask);
      const StatusCode code = Verify(changed).code();
      // Another key's number: perhaps one that is not known here.
      EXPECT_TRUE(code == StatusCode::kPermissionDenied || code == StatusCode::kUnavailable) << i;
    }
    EXPECT_EQ(Verify(token_.substr(0, i)).code(), StatusCode::kPermissionDenied) << i;
    EXPECT_FALSE(Verify(token_.substr(i + 1)).ok()) << i;
  }
  EXPECT_FALSE(Verify(token_ + '\0').ok());
  EXPECT_FALSE(Verify(token_ + token_).ok());
}

TEST_F(SessionTokenTest, RubbishIsRefused) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 20'000; ++i) {
    std::string rubbish(random() % 300, '\0');
    for (char& c : rubbish) c = static_cast<char>(random());
    if (i % 2 == 0) rubbish = "ENGT1" + rubbish;
    // Right up to the names, whose lengths lie.
    if (i % 4 == 0) rubbish = token_.substr(0, 29) + rubbish;
    EXPECT_FALSE(Verify(rubbish).ok());
  }
  EXPECT_FALSE(Verify(std::string(1 << 20, 'E')).ok());
}

TEST_F(SessionTokenTest, AnotherClustersKeyDoesNotSign) {
  TokenKeys other;
  other.Add(KeyUntil(kNow + 3 * kHour), kNow);
  EXPECT_EQ(Verify(other.Sign(kClaims, kNow).value()).code(), StatusCode::kUnavailable);
  // Nor with our key's number.
  TokenKey forged = KeyUntil(kNow + 3 * kHour);
  forged.id = keys_.All()[0].id;
  TokenKeys forger;
  forger.Add(forged, kNow);
  const Status status = Verify(forger.Sign(kClaims, kNow).value());
  EXPECT_EQ(status.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(status.message(), HasSubstr("forged"));
}

TEST(TokenKeysTest, WithoutAKeyNothingIsSignedAndNobodyBelieved) {
  TokenKeys keys;
  EXPECT_EQ(keys.Sign(kClaims, kNow).error().code(), StatusCode::kUnavailable);
  keys.Add(KeyUntil(kNow), kNow);  // over
  EXPECT_TRUE(keys.All().empty());
}

TEST(TokenKeysTest, TheOldestKeyThatLivesAsLongSigns) {
  TokenKeys keys;
  const TokenKey older = KeyUntil(kNow + 2 * kHour);
  const TokenKey newer = KeyUntil(kNow + 3 * kHour);
  keys.Add(newer, kNow);
  keys.Add(older, kNow);
  // A node that knows the older key only.
  TokenKeys node;
  node.Add(older, kNow);
  const auto known = [&](UnixSeconds lapses) {
    TokenClaims claims = kClaims;
    claims.lapses = lapses;
    return node
        .Verify(keys.Sign(claims, kNow).value(), claims.client, claims.version, claims.node, kNow)
        .has_value();
  };
  EXPECT_TRUE(known(kNow + kHour));
  EXPECT_TRUE(known(kNow + 2 * kHour));
  EXPECT_FALSE(known(kNow + 2 * kHour + UnixSeconds(1)));
  EXPECT_EQ(keys.SignerGoodUntil(kNow + 2 * kHour), older.good_until);
  EXPECT_EQ(keys.SignerGoodUntil(kNow + 2 * kHour + UnixSeconds(1)), newer.good_until);
  EXPECT_EQ(TokenKeys().SignerGoodUntil(kNow), UnixSeconds(0));
}

TEST(TokenKeysTest, NoTokenOutlivesItsKey) {
  TokenKeys keys;
  keys.Add(KeyUntil(kNow + kHour), kNow);
  TokenClaims claims = kClaims;
  claims.lapses = kNow + 9 * kHour;
  const std::string token = keys.Sign(claims, kNow).value();
  EXPECT_EQ(keys.Verify(token, claims.client, claims.version, claims.node, kNow)->lapses,
            kNow + kHour);
  // Over: forgotten with the next key.
  keys.Add(KeyUntil(kNow + 9 * kHour), kNow + 2 * kHour);
  EXPECT_EQ(keys.All().size(), 1u);
}

}  // namespace
}  // namespace engram
