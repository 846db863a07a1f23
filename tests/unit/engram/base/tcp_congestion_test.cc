#include "engram/base/tcp_congestion.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(TcpCongestionTest, TellsThisHostsOwn) { EXPECT_NE(TcpCongestionControl(), ""); }

TEST(TcpCongestionTest, WarnsOfPacingAndNamesTheSetting) {
  EXPECT_EQ(TcpPacingWarning("cubic"), "");
  EXPECT_EQ(TcpPacingWarning(""), "");
  for (const char* const name : {"bbr", "bbr2"}) {
    const std::string warning = TcpPacingWarning(name);
    EXPECT_NE(warning.find(name), std::string::npos);
    EXPECT_NE(warning.find("net.ipv4.tcp_congestion_control=cubic"), std::string::npos);
  }
}

}  // namespace
}  // namespace engram
