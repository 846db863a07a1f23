#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "bench/peer.h"

namespace engram::bench {
namespace {

using testing::ElementsAre;

constexpr PeerSetting kServers[] = {{.threads = 1, .connections = 1},
                                    {.threads = 2, .connections = 4}};
constexpr uint32_t kSizes[] = {64, 256};

TEST(PeerSettingsTest, EveryServerIsTriedWithEverySize) {
  EXPECT_THAT(PeerSettings(kServers, kSizes, 12288),
              ElementsAre(PeerSetting{1, 1, 64}, PeerSetting{1, 1, 256}, PeerSetting{2, 4, 64},
                          PeerSetting{2, 4, 256}));
}

TEST(PeerSettingsTest, SmallBatchIsOneMessageForEachConnectionAndNothingIsTriedTwice) {
  EXPECT_THAT(PeerSettings(kServers, kSizes, 48),
              ElementsAre(PeerSetting{1, 1, 48}, PeerSetting{2, 4, 12}));
  EXPECT_THAT(PeerSettings(kServers, kSizes, 50),
              ElementsAre(PeerSetting{1, 1, 50}, PeerSetting{2, 4, 13}));
}

TEST(PeerSettingsTest, UnknownPeerIsRefusedByName) {
  const auto peer = StartPeer("etcd", {.rows = 1, .row_bytes = 8});
  ASSERT_FALSE(peer.has_value());
  EXPECT_EQ(peer.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(peer.error().message().find("etcd"), std::string::npos);
}

}  // namespace
}  // namespace engram::bench
