#include "engram/base/network_interfaces.h"

#include <algorithm>
#include <thread>

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

namespace engram {
namespace {
constexpr std::chrono::milliseconds kLookAgain{20};
}  // namespace

std::vector<NetworkInterface> NetworkInterfaces() {
  std::vector<NetworkInterface> interfaces;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return interfaces;
  for (const ifaddrs* each = list; each != nullptr; each = each->ifa_next) {
    if (each->ifa_addr == nullptr || (each->ifa_flags & IFF_UP) == 0) continue;
    char text[INET6_ADDRSTRLEN] = {};
    if (each->ifa_addr->sa_family == AF_INET) {
      const auto* const address = reinterpret_cast<const sockaddr_in*>(each->ifa_addr);
      inet_ntop(AF_INET, &address->sin_addr, text, sizeof(text));
    } else if (each->ifa_addr->sa_family == AF_INET6) {
      const auto* const address = reinterpret_cast<const sockaddr_in6*>(each->ifa_addr);
      if (IN6_IS_ADDR_LINKLOCAL(&address->sin6_addr)) continue;
      inet_ntop(AF_INET6, &address->sin6_addr, text, sizeof(text));
    }
    if (text[0] == '\0') continue;
    interfaces.push_back({each->ifa_name, text, (each->ifa_flags & IFF_LOOPBACK) != 0,
                          (each->ifa_flags & IFF_RUNNING) != 0});
  }
  freeifaddrs(list);
  return interfaces;
}

std::vector<std::string> OwnHosts() {
  std::vector<std::string> hosts;
  for (NetworkInterface& each : NetworkInterfaces()) hosts.push_back(std::move(each.address));
  std::sort(hosts.begin(), hosts.end());
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  return hosts;
}

std::string NoLinkTo(const std::string& host, const std::vector<NetworkInterface>& interfaces) {
  if (host == "localhost") return "";
  std::string without;
  for (const NetworkInterface& each : interfaces) {
    if (each.address == host) {
      return each.running ? "" : "interface " + each.name + ", which has " + host + ", has no link";
    }
    if (!each.loopback && !each.running) without = each.name;
  }
  // A name, or an address that something outside translates: any interface may be meant.
  const bool any = std::any_of(interfaces.begin(), interfaces.end(),
                               [](const auto& each) { return !each.loopback && each.running; });
  if (any || without.empty()) return "";
  return "no interface but loopback has a link (" + without + " has none)";
}

Status AwaitLink(const std::string& host, std::chrono::milliseconds patience) {
  const auto end = std::chrono::steady_clock::now() + patience;
  while (true) {
    const std::string problem = NoLinkTo(host, NetworkInterfaces());
    if (problem.empty()) return {};
    if (std::chrono::steady_clock::now() >= end) {
      return {StatusCode::kUnavailable,
              problem + ": readers on other hosts could not come to " + host +
                  "; bring the link up (ip link), or advertise another address"};
    }
    std::this_thread::sleep_for(kLookAgain);
  }
}

}  // namespace engram
