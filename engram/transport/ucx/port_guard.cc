#include "engram/transport/ucx/port_guard.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include <arpa/inet.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spdlog/spdlog.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engram/base/network_interfaces.h"
#include "engram/base/tell_rate.h"
#include "engram/transport/ucx/handshake_guard.h"
#include "engram/transport/ucx/port_filter.h"

namespace engram {
namespace {

// Connections turned away at one call: UCX makes no progress meanwhile, and comes back for more.
constexpr int kTurnedAwayMax = 64;
constexpr uint32_t kTurnedAwayToldPerSecond = 1;

struct Listening {
  int fd = -1;
  uint64_t inode = 0;
  uint16_t port = 0;  // as it travels
};

std::vector<Listening> ListeningSockets() {
  std::vector<Listening> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd", error)) {
    const int fd = std::atoi(entry.path().filename().c_str());
    int listens = 0;
    socklen_t size = sizeof(listens);
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size) != 0 || listens == 0) continue;
    sockaddr_storage address{};
    size = sizeof(address);
    struct stat status {};
    if (getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) continue;
    if (fstat(fd, &status) != 0) continue;
    Listening socket{fd, status.st_ino, 0};
    if (address.ss_family == AF_INET) {
      socket.port = reinterpret_cast<const sockaddr_in&>(address).sin_port;
    } else if (address.ss_family == AF_INET6) {
      socket.port = reinterpret_cast<const sockaddr_in6&>(address).sin6_port;
    } else {
      continue;
    }
    found.push_back(socket);
  }
  return found;
}

uint64_t InodeOf(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// By its name in /proc, for it is UCX's: another thread may close it just now.
bool IsSocket(int fd, uint64_t inode) {
  char found[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  const ssize_t size = readlink(link.c_str(), found, sizeof(found) - 1);
  return size > 0 && found == "socket:[" + std::to_string(inode) + "]";
}

std::string HostOf(const sockaddr_storage& address) {
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in&>(address).sin_addr, text, sizeof(text));
  } else if (address.ss_family == AF_INET6) {
    inet_ntop(AF_INET6, &reinterpret_cast<const sockaddr_in6&>(address).sin6_addr, text,
              sizeof(text));
  }
  return text;
}

// As HostOf writes it; empty for what is no address. An IPv4 peer of a socket for both reads as
// ::ffff:a.b.c.d; its packets are IPv4.
std::string Plain(const std::string& host) {
  constexpr std::string_view kMapped = "::ffff:";
  const bool mapped = host.starts_with(kMapped) && host.find('.') != std::string::npos;
  const std::string text = mapped ? host.substr(kMapped.size()) : host.substr(0, host.find('%'));
  sockaddr_storage address{};
  if (inet_pton(AF_INET, text.c_str(), &reinterpret_cast<sockaddr_in&>(address).sin_addr) == 1) {
    address.ss_family = AF_INET;
  } else if (inet_pton(AF_INET6, text.c_str(),
                       &reinterpret_cast<sockaddr_in6&>(address).sin6_addr) == 1) {
    address.ss_family = AF_INET6;
  }
  return HostOf(address);
}

// Which of this process's listening sockets have a guard. Thread-safe.
class GuardedSockets {
 public:
  static GuardedSockets& All() {
    static auto* const all = new GuardedSockets;  // threads of UCX may outlive static objects
    return *all;
  }

  void Add(int fd, uint64_t inode, PortGuard* guard) {
    const std::lock_guard lock(mutex_);
    guards_[fd] = {inode, guard};
  }
  void Remove(const PortGuard* guard) {
    const std::lock_guard lock(mutex_);
    std::erase_if(guards_, [guard](const auto& each) { return each.second.guard == guard; });
  }
  bool Has(int fd) {
    const std::lock_guard lock(mutex_);
    return Find(fd) != nullptr;
  }
  // `connection` came to the listening `fd`.
  bool LetsIn(int fd, int connection, const std::string& host) {
    const std::lock_guard lock(mutex_);
    PortGuard* const guard = Find(fd);
    const char* const fault = guard == nullptr ? nullptr : guard->TakeIn(host, connection);
    if (fault == nullptr) {
      const unsigned stuck_ms =
          guard == nullptr ? 0 : static_cast<unsigned>(guard->stuck_max().count());
      (void)setsockopt(connection, IPPROTO_TCP, TCP_USER_TIMEOUT, &stuck_ms, sizeof(stuck_ms));
      if (guard != nullptr) GuardHandshake(connection);
      return true;
    }
    if (const auto left_out = rate_.Tell(std::chrono::steady_clock::now())) {
      spdlog::warn(
          "a connection from {} to UCX's own port was turned away: {} ({} more were not told)",
          host, fault, *left_out);
      if (guard->audit() != nullptr) {
        std::string why = fault;
        if (*left_out > 0) why += "; " + std::to_string(*left_out) + " more were not told";
        guard->audit()->Write({nullptr,
                               host,
                               "data connection",
                               {},
                               {StatusCode::kPermissionDenied, std::move(why)}});
      }
    }
    return false;
  }

 private:
  struct Guarded {
    uint64_t inode = 0;  // the descriptor may be another socket's by now
    PortGuard* guard = nullptr;
  };

  PortGuard* Find(int fd) {
    const auto found = guards_.find(fd);
    if (found == guards_.end() || InodeOf(fd) != found->second.inode) return nullptr;
    return found->second.guard;
  }

  std::mutex mutex_;
  std::map<int, Guarded> guards_;            // guarded by mutex_
  TellRate rate_{kTurnedAwayToldPerSecond};  // guarded by mutex_
};

}  // namespace
}  // namespace engram

// In front of the C library's, for this whole process: the dynamic linker gives UCX the program's
// own. (Not where this is part of a library that another program loads.)
extern "C" int accept(int fd, sockaddr* address, socklen_t* size) {
  using engram::GuardedSockets;
  if (!GuardedSockets::All().Has(fd)) return accept4(fd, address, size, 0);
  for (int i = 0; i < engram::kTurnedAwayMax; ++i) {
    sockaddr_storage peer{};
    socklen_t peer_size = sizeof(peer);
    const int connection = accept4(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size, 0);
    // UCX stops listening for good at any error but this one, even if it has only run out of
    // descriptors, or the peer has gone again.
    if (connection < 0) break;
    if (GuardedSockets::All().LetsIn(fd, connection, engram::HostOf(peer))) {
      if (address != nullptr && size != nullptr) {
        std::memcpy(address, &peer, std::min(*size, peer_size));
        *size = peer_size;
      }
      return connection;
    }
    const linger at_once{1, 0};
    (void)setsockopt(connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
    close(connection);
  }
  errno = EAGAIN;
  return -1;
}

namespace engram {
namespace {

// Whether UCX's connections come through the function above.
bool AcceptIsOurs() {
  static const bool ours = dlsym(RTLD_DEFAULT, "accept") == reinterpret_cast<void*>(&::accept);
  return ours;
}

}  // namespace

std::vector<std::string> DataHosts() {
  std::vector<std::string> hosts = OwnHosts();
  if (hosts.size() > kDataHostsMax) {
    spdlog::warn("this host has {} addresses: peers are told the first {}", hosts.size(),
                 kDataHostsMax);
    hosts.resize(kDataHostsMax);
  }
  return hosts;
}

PortGuard::PortGuard(std::chrono::milliseconds stuck_max, std::shared_ptr<AuditLog> audit)
    : stuck_max_(stuck_max), audit_(std::move(audit)) {
  for (const Listening& socket : ListeningSockets()) listening_before_.insert(socket.inode);
}

PortGuard::~PortGuard() {
  GuardedSockets::All().Remove(this);
  for (const int socket : filtered_) close(socket);
}

void PortGuard::GiveUp(const Status& why) {
  for (const int socket : filtered_) close(socket);
  filtered_.clear();
  port_count_ = 0;
  static std::atomic<bool> told{false};
  if (told.exchange(true)) return;
  spdlog::warn(
      "UCX's TCP ports are open to every host that reaches this one ({}): let only memory nodes "
      "and "
      "model workers reach it (docs/SECURITY.md)",
      why.ToString());
}

void PortGuard::Guard(const std::string& worker_address) {
  for (const Listening& socket : ListeningSockets()) {
    // Another thread may have begun to listen meanwhile; UCX's own ports are in its address.
    std::string port(sizeof(socket.port), '\0');
    std::memcpy(port.data(), &socket.port, sizeof(socket.port));
    if (listening_before_.contains(socket.inode)) continue;
    if (worker_address.find(port) == std::string::npos) continue;
    ++port_count_;
    if (AcceptIsOurs()) {
      GuardedSockets::All().Add(socket.fd, socket.inode, this);
      continue;
    }
    const int own = fcntl(socket.fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return GiveUp({StatusCode::kIo, "out of file descriptors"});
    filtered_.push_back(own);
  }
  listening_before_.clear();
  const std::lock_guard lock(mutex_);
  if (Status status = Update(); !status.ok()) GiveUp(status);
}

bool PortGuard::LetsIn(const std::string& host) const {
  const std::lock_guard lock(mutex_);
  const auto found = hosts_.find(Plain(host));
  return found != hosts_.end() && found->second.admitted > 0;
}

const char* PortGuard::TakeIn(const std::string& host, int connection) {
  const std::lock_guard lock(mutex_);
  const auto found = hosts_.find(Plain(host));
  if (found == hosts_.end() || found->second.admitted == 0) return "no session is of that host";
  Host& from = found->second;
  const size_t most = kConnectionsOfHost + from.admitted * kConnectionsOfSession;
  if (from.connections.size() >= most) ForgetClosed(&from);
  if (from.connections.size() >= most) return "that host has as many as its sessions can need";
  from.connections.push_back({connection, InodeOf(connection)});
  return nullptr;
}

void PortGuard::ForgetClosed(Host* host) {
  std::erase_if(host->connections, [](const Connection& connection) {
    return !IsSocket(connection.fd, connection.inode);
  });
}

Status PortGuard::Admit(const std::string& host, Room room) {
  const std::string plain = Plain(host);
  if (plain.empty()) {
    return {StatusCode::kInvalidArgument, "'" + host + "' is not the address of a host"};
  }
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = hosts_.try_emplace(plain);
  if (is_new && room == Room::kIfFree && hosts_.size() > kHostsMax) {
    hosts_.erase(place);
    return {StatusCode::kResourceExhausted,
            "the data port is open to " + std::to_string(kHostsMax) + " hosts already"};
  }
  if (++place->second.admitted > 1) return {};
  Status status = Update();
  if (!status.ok()) Leave(place);
  return status;
}

void PortGuard::Expel(const std::string& host) {
  const std::lock_guard lock(mutex_);
  const auto place = hosts_.find(Plain(host));
  if (place == hosts_.end() || place->second.admitted == 0) return;
  if (place->second.admitted > 1) {
    --place->second.admitted;
    return;
  }
  Leave(place);
  (void)Update();  // the filter is smaller than the one before
}

// Its connections count on: it may come back, and UCX keeps them until their ends.
void PortGuard::Leave(std::map<std::string, Host>::iterator place) {
  place->second.admitted = 0;
  ForgetClosed(&place->second);
  if (place->second.connections.empty()) hosts_.erase(place);
}

Status PortGuard::Update() {
  if (filtered_.empty()) return {};
  std::vector<std::string> hosts;
  for (const auto& [host, what] : hosts_) {
    if (what.admitted > 0) hosts.push_back(host);
  }
  return AttachFilter(filtered_, hosts);
}

}  // namespace engram
