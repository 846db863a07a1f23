#include "engram/transport/ucx/handshake_guard.h"

#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include <netinet/in.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>

namespace engram {
namespace {

// As UCX 1.13 has them on a TCP connection (uct/tcp/tcp.h: uct_tcp_am_hdr_t,
// uct_tcp_cm_conn_event_t, uct_tcp_cm_conn_req_pkt_t). Of one machine, so in its own byte order.
#pragma pack(push, 1)
struct MessageHeader {
  uint8_t id = 0;
  uint32_t bytes = 0;  // that follow
};
struct Acknowledgement {
  MessageHeader header;
  uint32_t event = 0;
};
struct ConnectionRequest {
  MessageHeader header;
  uint32_t event = 0;
  uint8_t flags = 0;
  uint64_t number = 0;
  // and the address of the sender's port, of one of two sizes
};
#pragma pack(pop)
constexpr uint8_t kConnectionMessage = 32;  // UCT_TCP_EP_CM_AM_ID
constexpr uint32_t kRequestEvent = 1;
constexpr uint32_t kAcknowledgementEvent = 2;

bool IsConnectionRequest(const void* data, size_t size) {
  if (size != sizeof(ConnectionRequest) + sizeof(sockaddr_in) &&
      size != sizeof(ConnectionRequest) + sizeof(sockaddr_in6)) {
    return false;
  }
  ConnectionRequest request;
  std::memcpy(&request, data, sizeof(request));
  return request.header.id == kConnectionMessage &&
         request.header.bytes == size - sizeof(MessageHeader) && request.event == kRequestEvent;
}

enum class Handshake : uint8_t {
  kNone,     // no connection of UCX's, as far as we know
  kNoneDue,  // one that this process took in; UCX awaits no acknowledgement there
  kAwaited,  // the last that UCX sent there was its connection request
};

// By descriptor; those beyond are left alone. Only UCX's thread of that connection changes one,
// and the thread that accepts, before there is any.
constexpr size_t kDescriptorsMax = size_t{1} << 20;
std::array<std::atomic<Handshake>, kDescriptorsMax> handshakes{};

// Null: nothing to look at.
std::atomic<Handshake>* HandshakeOf(int fd) {
  if (fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax) return nullptr;
  auto* const handshake = &handshakes[static_cast<size_t>(fd)];
  return handshake->load(std::memory_order_relaxed) == Handshake::kNone ? nullptr : handshake;
}

void Begin(int fd, Handshake handshake) {
  if (fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax) return;
  handshakes[static_cast<size_t>(fd)].store(handshake, std::memory_order_relaxed);
}

bool IsTheEnd(ssize_t result) {
  return result == 0 || (result < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

}  // namespace

void GuardHandshake(int connection) {
  static const bool is_needed = [] {
    unsigned major = 0;
    unsigned minor = 0;
    unsigned release = 0;
    ucp_get_version(&major, &minor, &release);
    return major == 1 && minor < 14;
  }();
  if (is_needed) Begin(connection, Handshake::kNoneDue);
}

void LeaveAlone(int connection) { Begin(connection, Handshake::kNone); }

}  // namespace engram

// The dynamic linker gives UCX the program's own, in front of the C library's. (Not where this is
// part of a library that another program loads.)
extern "C" ssize_t send(int fd, const void* data, size_t size, int flags) {
  using engram::Handshake;
  const ssize_t sent = sendto(fd, data, size, flags, nullptr, 0);
  auto* const handshake = engram::HandshakeOf(fd);
  if (handshake == nullptr) return sent;
  if (!engram::IsConnectionRequest(data, size)) {
    // UCX sends nothing else before the acknowledgement has come.
    handshake->store(Handshake::kNoneDue, std::memory_order_relaxed);
    return sent;
  }
  handshake->store(Handshake::kAwaited, std::memory_order_relaxed);
  // UCX would connect anew just the same: it will find the end at the next recv.
  return engram::IsTheEnd(sent) ? static_cast<ssize_t>(size) : sent;
}

extern "C" ssize_t recv(int fd, void* data, size_t size, int flags) {
  using engram::Handshake;
  const ssize_t received = recvfrom(fd, data, size, flags, nullptr, nullptr);
  if (received > 0 || !engram::IsTheEnd(received)) return received;
  auto* const handshake = engram::HandshakeOf(fd);
  if (handshake == nullptr || handshake->load(std::memory_order_relaxed) != Handshake::kAwaited) {
    return received;
  }
  const engram::Acknowledgement acknowledgement{
      {engram::kConnectionMessage, sizeof(engram::Acknowledgement::event)},
      engram::kAcknowledgementEvent};
  // Less room: UCX waits for the rest of a message that will not come.
  if (size < sizeof(acknowledgement)) return received;
  handshake->store(Handshake::kNoneDue, std::memory_order_relaxed);
  std::memcpy(data, &acknowledgement, sizeof(acknowledgement));
  return sizeof(acknowledgement);
}
