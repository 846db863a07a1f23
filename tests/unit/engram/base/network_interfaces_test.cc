#include "engram/base/network_interfaces.h"

#include <algorithm>

#include <gtest/gtest.h>

namespace engram {
namespace {

const NetworkInterface kLoopback{"lo", "127.0.0.1", true, true};
const NetworkInterface kLinked{"eth0", "10.0.0.7", false, true};
const NetworkInterface kUnlinked{"eth1", "10.0.0.8", false, false};

TEST(NetworkInterfacesTest, OwnHostsHaveLoopback) {
  const std::vector<std::string> hosts = OwnHosts();
  EXPECT_NE(std::find(hosts.begin(), hosts.end(), "127.0.0.1"), hosts.end());
  EXPECT_TRUE(AwaitLink("127.0.0.1", std::chrono::milliseconds(0)).ok());
}

TEST(NetworkInterfacesTest, TheInterfaceOfAnAddressCounts) {
  EXPECT_EQ(NoLinkTo("10.0.0.7", {kLoopback, kLinked, kUnlinked}), "");
  EXPECT_EQ(NoLinkTo("10.0.0.8", {kLoopback, kLinked, kUnlinked}),
            "interface eth1, which has 10.0.0.8, has no link");
  EXPECT_EQ(NoLinkTo("127.0.0.1", {kLoopback, kUnlinked}), "");
  EXPECT_EQ(NoLinkTo("localhost", {kLoopback, kUnlinked}), "");
}

TEST(NetworkInterfacesTest, ForANameAnyInterfaceWillDo) {
  EXPECT_EQ(NoLinkTo("memory-0.pool", {kLoopback, kLinked, kUnlinked}), "");
  EXPECT_EQ(NoLinkTo("memory-0.pool", {kLoopback, kUnlinked}),
            "no interface but loopback has a link (eth1 has none)");
  EXPECT_EQ(NoLinkTo("0.0.0.0", {kLoopback, kUnlinked}),
            "no interface but loopback has a link (eth1 has none)");
  // A machine without a network.
  EXPECT_EQ(NoLinkTo("memory-0.pool", {kLoopback}), "");
}

}  // namespace
}  // namespace engram
