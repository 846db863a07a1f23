// Who may connect to the TCP ports that UCX opens by itself.
//
// UCX trusts whoever connects: it asks nobody who they are, and ends the process when what comes is
// damaged in certain ways (docs/SECURITY.md). So the kernel is told to drop what comes to those
// ports from other hosts than those of sessions (a classic BPF filter on the listening sockets,
// which needs no privilege).
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engram/base/status.h"

namespace engram {

// Of one peer; a host has a few interfaces.
inline constexpr int kDataHostsMax = 32;

// The addresses of this host's interfaces that are up, as text; without link-local ones.
[[nodiscard]] std::vector<std::string> OwnHosts();

// Thread-safe from Guard on.
class PortGuard {
 public:
  // Hosts at once; of IPv6, where a filter holds fewer, some 400.
  static constexpr size_t kHostsMax = 1000;

  // Before the worker is made: remembers who listens in this process already.
  PortGuard();
  ~PortGuard();
  PortGuard(const PortGuard&) = delete;
  PortGuard& operator=(const PortGuard&) = delete;

  // The worker is made, and this is its address: from now on nobody may connect to its ports.
  // Connections that are there stay. A worker without TCP has no port to guard.
  // ERRORS: kIo (the kernel does not take the filter: the ports are open to everybody).
  [[nodiscard]] Status Guard(const std::string& worker_address);
  [[nodiscard]] size_t port_count() const { return sockets_.size(); }

  // This host may connect from now on, until it was expelled as often as it was admitted.
  // ERRORS: kInvalidArgument (no numeric address), kResourceExhausted (kHostsMax), kIo.
  [[nodiscard]] Status Admit(const std::string& host);
  void Expel(const std::string& host);

 private:
  Status Update();

  std::set<uint64_t> listening_before_;  // inodes
  std::vector<int> sockets_;             // owned duplicates of UCX's
  std::mutex mutex_;
  std::map<std::string, uint32_t> admitted_;  // guarded by mutex_: how often
};

}  // namespace engram
