#include "engram/transport/ucx/port_filter.h"

#include <cerrno>
#include <cstdint>
#include <cstring>

#include <arpa/inet.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sys/socket.h>

namespace engram {
namespace {

// Offsets in the IP header, which a filter of a TCP socket reaches below its own data.
constexpr uint32_t kNet = static_cast<uint32_t>(SKF_NET_OFF);
constexpr uint32_t kSource4 = kNet + 12;
constexpr uint32_t kSource6 = kNet + 8;
constexpr uint32_t kAccept = 0xffffffff;

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

sock_filter Load(uint16_t size, uint32_t at) {
  return BPF_STMT(static_cast<uint16_t>(BPF_LD | size | BPF_ABS), at);
}
// Skips `unequal` instructions unless the last word loaded is `value`.
sock_filter SkipUnless(uint32_t value, uint8_t unequal) {
  return BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, unequal);
}

// Lets in what comes from these hosts. 2 instructions for an IPv4 host, 9 for an IPv6 one.
std::vector<sock_filter> FilterOf(const std::vector<std::string>& hosts) {
  std::vector<sock_filter> v4;
  std::vector<sock_filter> v6;
  for (const std::string& host : hosts) {
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

Status AttachFilter(const std::vector<int>& sockets, const std::vector<std::string>& hosts) {
  std::vector<sock_filter> filter = FilterOf(hosts);
  if (filter.size() > BPF_MAXINSNS) {
    return {StatusCode::kResourceExhausted, "the data port is open to too many hosts already"};
  }
  const sock_fprog program{static_cast<uint16_t>(filter.size()), filter.data()};
  for (const int socket : sockets) {
    if (setsockopt(socket, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) != 0) {
      return {StatusCode::kIo, std::string("SO_ATTACH_FILTER: ") + std::strerror(errno)};
    }
  }
  return {};
}

}  // namespace engram
