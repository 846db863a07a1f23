// Who may connect to the TCP ports that UCX opens by itself.
//
// UCX trusts whoever connects: it asks nobody who they are, and ends the process when what comes is
// damaged in certain ways (docs/SECURITY.md). So connections to those ports from other hosts than
// those of sessions are turned away before UCX sees them: by an accept(2) of ours in our programs.
// In libengram_client.so, which cannot put its accept before that of the program that loads it, by
// a filter in the kernel, where that takes one (port_filter.h).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/security/audit_log.h"

namespace engram {

// Of one peer; most hosts have a few addresses.
inline constexpr int kDataHostsMax = 256;
// A host with n sessions may have kConnectionsOfHost + n * kConnectionsOfSession connections to a
// worker's ports: UCX makes one or two for an endpoint, a few where there are many network cards.
inline constexpr size_t kConnectionsOfHost = 64;
inline constexpr size_t kConnectionsOfSession = 8;

// The addresses that connections of this process may come from, as it tells its peers.
[[nodiscard]] std::vector<std::string> DataHosts();

// Thread-safe from Guard on.
class PortGuard {
 public:
  static constexpr size_t kHostsMax = 1u << 16;  // at once, but kAlways; a filter holds fewer
  enum class Room : uint8_t { kIfFree, kAlways };

  // Before the worker is made: remembers who listens in this process already.
  //   stuck_max  the kernel ends a connection whose peer has taken nothing for so long; 0 = never
  //   audit      gets who was turned away, once a second at most; null = nobody does
  explicit PortGuard(std::chrono::milliseconds stuck_max = std::chrono::milliseconds(0),
                     std::shared_ptr<AuditLog> audit = nullptr);
  ~PortGuard();
  PortGuard(const PortGuard&) = delete;
  PortGuard& operator=(const PortGuard&) = delete;

  // The worker is made, and this is its address: from now on nobody may connect to its ports.
  // Connections that are there stay. A worker without TCP has no port to guard.
  // Where only the kernel could and does not, the ports stay open to everybody, with a warning.
  void Guard(const std::string& worker_address);
  [[nodiscard]] size_t port_count() const { return port_count_; }  // guarded ones

  // This host may connect from now on, until it was expelled as often as it was admitted.
  //   kAlways  though there are kHostsMax: the host that somebody calls from, not what it names
  // ERRORS: kInvalidArgument (no numeric address), kResourceExhausted (too many), kIo.
  [[nodiscard]] Status Admit(const std::string& host, Room room = Room::kIfFree);
  void Expel(const std::string& host);
  [[nodiscard]] bool LetsIn(const std::string& host) const;
  // A connection of that host was accepted. Nothing, or why it must be closed.
  [[nodiscard]] const char* TakeIn(const std::string& host, int connection);
  [[nodiscard]] std::chrono::milliseconds stuck_max() const { return stuck_max_; }
  [[nodiscard]] AuditLog* audit() const { return audit_.get(); }

 private:
  // By descriptor and inode: UCX closes it, and nobody tells us.
  struct Connection {
    int fd = -1;
    uint64_t inode = 0;
  };
  struct Host {
    uint32_t admitted = 0;  // how often; 0 = no more, but it has connections still
    std::vector<Connection> connections;
  };

  static void ForgetClosed(Host* host);
  void Leave(std::map<std::string, Host>::iterator place);
  Status Update();
  void GiveUp(const Status& why);

  const std::chrono::milliseconds stuck_max_;
  const std::shared_ptr<AuditLog> audit_;
  std::set<uint64_t> listening_before_;  // inodes
  size_t port_count_ = 0;
  std::vector<int> filtered_;  // owned duplicates of UCX's sockets; empty: `accept` looks
  mutable std::mutex mutex_;
  std::map<std::string, Host> hosts_;  // guarded by mutex_
};

}  // namespace engram
