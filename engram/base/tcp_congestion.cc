#include "engram/base/tcp_congestion.h"

#include <fstream>

namespace engram {

std::string TcpCongestionControl() {
  std::ifstream file("/proc/sys/net/ipv4/tcp_congestion_control");
  std::string name;
  file >> name;
  return name;
}

std::string TcpPacingWarning(const std::string& congestion_control) {
  if (!congestion_control.starts_with("bbr")) return "";
  return "this host's TCP congestion control is " + congestion_control +
         ": it paces replies that follow a pause, so some rows come some 50 ms late. On hosts of "
         "memory nodes and workers: sysctl -w net.ipv4.tcp_congestion_control=cubic";
}

}  // namespace engram
