// This host's network interfaces: which addresses it has, and whether they can be reached yet.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram {

struct NetworkInterface {
  std::string name;     // "eth0"
  std::string address;  // "10.0.0.7"; as often as it has addresses
  bool loopback = false;
  bool running = false;  // it has a link: packets go
};

// Those that are up; without link-local addresses.
[[nodiscard]] std::vector<NetworkInterface> NetworkInterfaces();

// The addresses of those, as text; sorted, each once.
[[nodiscard]] std::vector<std::string> OwnHosts();

// Why peers elsewhere cannot come to `host` (an address of this host, or any name of it); empty
// where they can. UCX leaves out interfaces without a link when it starts and never looks again
// (1.13.1): a process that starts before its link is there would offer loopback only.
[[nodiscard]] std::string NoLinkTo(const std::string& host,
                                   const std::vector<NetworkInterface>& interfaces);

// Returns once there is a link. Blocks. ERRORS: kUnavailable after `patience`.
[[nodiscard]] Status AwaitLink(const std::string& host, std::chrono::milliseconds patience);

}  // namespace engram
