#include "engram/transport/ucx/port_guard.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <utility>

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

namespace engram {
namespace {

// Offsets in the IP header, which a filter of a TCP socket reaches below its own data.
constexpr uint32_t kNet = static_cast<uint32_t>(SKF_NET_OFF);
constexpr uint32_t kSource4 = kNet + 12;
constexpr uint32_t kSource6 = kNet + 8;
constexpr uint32_t kAccept = 0xffffffff;

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

// Four words for an IPv6 address, one for IPv4; empty for anything else.
std::vector<uint32_t> WordsOf(const std::string& host) {
  in_addr v4{};
  in6_addr v6{};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return {ntohl(v4.s_addr)};
  if (inet_pton(AF_INET6, host.c_str(), &v6) != 1) return {};
  std::vector<uint32_t> words(4);
  std::memcpy(words.data(), v6.s6_addr, 16);
  for (uint32_t& word : words) word = ntohl(word);
  return words;
}

// An IPv4 peer of a socket for both reads as ::ffff:a.b.c.d; its packets are IPv4.
std::string Plain(const std::string& host) {
  constexpr std::string_view kMapped = "::ffff:";
  const bool mapped = host.starts_with(kMapped) && host.find('.') != std::string::npos;
  return mapped ? host.substr(kMapped.size()) : host.substr(0, host.find('%'));
}

sock_filter Load(uint16_t size, uint32_t at) {
  return BPF_STMT(static_cast<uint16_t>(BPF_LD | size | BPF_ABS), at);
}
// Skips `unequal` instructions unless the last word loaded is `value`.
sock_filter SkipUnless(uint32_t value, uint8_t unequal) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, unequal);
}

// Lets in what comes from these hosts. 2 instructions for an IPv4 host, 9 for an IPv6 one.
std::vector<sock_filter> FilterOf(const std::map<std::string, uint32_t>& hosts) {
  std::vector<sock_filter> v4;
  std::vector<sock_filter> v6;
  for (const auto& [host, times] : hosts) {
    const std::vector<uint32_t> words = WordsOf(host);
    if (words.size() == 1) {
      v4.push_back(SkipUnless(words[0], 1));
      v4.push_back(BPF_STMT(BPF_RET | BPF_K, kAccept));
      continue;
    }
    for (uint32_t i = 0; i < 4; ++i) {
      v6.push_back(Load(BPF_W, kSource6 + 4 * i));
      v6.push_back(SkipUnless(words[i], static_cast<uint8_t>(2 * (3 - i) + 1)));
    }
    v6.push_back(BPF_STMT(BPF_RET | BPF_K, kAccept));
  }
  std::vector<sock_filter> filter = {
      Load(BPF_B, kNet),
      BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 4),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 4, 0, 1),
      // The other version's part may be longer than a conditional jump reaches.
      BPF_STMT(BPF_JMP | BPF_JA, static_cast<uint32_t>(v6.size()) + 1),
  };
  filter.insert(filter.end(), v6.begin(), v6.end());
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
  filter.push_back(Load(BPF_W, kSource4));
  filter.insert(filter.end(), v4.begin(), v4.end());
  filter.push_back(BPF_STMT(BPF_RET | BPF_K, 0));
  return filter;
}

}  // namespace

std::vector<std::string> OwnHosts() {
  std::vector<std::string> hosts;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return hosts;
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
    if (text[0] != '\0') hosts.emplace_back(text);
  }
  freeifaddrs(list);
  std::sort(hosts.begin(), hosts.end());
  hosts.erase(std::unique(hosts.begin(), hosts.end()), hosts.end());
  return hosts;
}

PortGuard::PortGuard() {
  for (const Listening& socket : ListeningSockets()) listening_before_.insert(socket.inode);
}

PortGuard::~PortGuard() {
  for (const int socket : sockets_) close(socket);
}

Status PortGuard::Guard(const std::string& worker_address) {
  for (const Listening& socket : ListeningSockets()) {
    // Another thread may have begun to listen meanwhile; UCX's own ports are in its address.
    std::string port(sizeof(socket.port), '\0');
    std::memcpy(port.data(), &socket.port, sizeof(socket.port));
    if (listening_before_.contains(socket.inode)) continue;
    if (worker_address.find(port) == std::string::npos) continue;
    const int own = fcntl(socket.fd, F_DUPFD_CLOEXEC, 0);
    if (own < 0) return {StatusCode::kIo, "out of file descriptors"};
    sockets_.push_back(own);
  }
  listening_before_.clear();
  const std::lock_guard lock(mutex_);
  return Update();
}

Status PortGuard::Admit(const std::string& host) {
  const std::string plain = Plain(host);
  if (WordsOf(plain).empty()) {
    return {StatusCode::kInvalidArgument, "'" + host + "' is not the address of a host"};
  }
  const std::lock_guard lock(mutex_);
  const auto [place, is_new] = admitted_.try_emplace(plain, 0);
  if (is_new && admitted_.size() > kHostsMax) {
    admitted_.erase(place);
    return {StatusCode::kResourceExhausted,
            "the data port is open to " + std::to_string(kHostsMax) + " hosts already"};
  }
  ++place->second;
  if (!is_new) return {};
  Status status = Update();
  if (!status.ok()) admitted_.erase(place);
  return status;
}

void PortGuard::Expel(const std::string& host) {
  const std::lock_guard lock(mutex_);
  const auto place = admitted_.find(Plain(host));
  if (place == admitted_.end() || --place->second > 0) return;
  admitted_.erase(place);
  (void)Update();  // the filter is smaller than the one before
}

Status PortGuard::Update() {
  if (sockets_.empty()) return {};
  std::vector<sock_filter> filter = FilterOf(admitted_);
  if (filter.size() > BPF_MAXINSNS) {
    return {StatusCode::kResourceExhausted, "the data port is open to too many hosts already"};
  }
  const sock_fprog program{static_cast<uint16_t>(filter.size()), filter.data()};
  for (const int socket : sockets_) {
    if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0) {
      return {StatusCode::kIo, std::string("SO_ATTACH_FILTER: ") + std::strerror(errno)};
    }
  }
  return {};
}

}  // namespace engram
