#include "engram/transport/ucx/handshake_guard.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include <dlfcn.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <ucp/api/ucp.h>

#include "engram/transport/ucx/event_guard.h"
#include "engram/transport/ucx/send_guard.h"

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
constexpr uint64_t kMagic = 0xCAFEBABE12345678;  // what a connection begins with
constexpr size_t kMagicBytes = sizeof(kMagic);   // UCX reads it alone
constexpr uint8_t kConnectionMessage = 32;       // UCT_TCP_EP_CM_AM_ID
constexpr uint32_t kRequestEvent = 1;
constexpr uint32_t kAcknowledgementEvent = 2;

// `is_first`: of a connection that this process made, so with the magic number before it.
bool IsConnectionRequest(const void* data, size_t size, bool is_first) {
  if (is_first) {
    if (size < kMagicBytes) return false;
    data = static_cast<const std::byte*>(data) + kMagicBytes;
    size -= kMagicBytes;
  }
  if (size != sizeof(ConnectionRequest) + sizeof(sockaddr_in) &&
      size != sizeof(ConnectionRequest) + sizeof(sockaddr_in6)) {
    return false;
  }
  ConnectionRequest request;
  std::memcpy(&request, data, sizeof(request));
  return request.header.id == kConnectionMessage &&
         request.header.bytes == size - sizeof(MessageHeader) && request.event == kRequestEvent;
}

// Of UCX's connection manager. UCX sends them in one call that does not end while there is no room,
// from the beginning again where there was some for a part. What only begins like one is the rest
// of another message.
bool MayBeConnectionMessage(const void* data, size_t size) {
  if (size == 0) return false;
  if (*static_cast<const uint8_t*>(data) == kConnectionMessage) return true;
  return std::memcmp(data, &kMagic, std::min(size, kMagicBytes)) == 0;
}

enum class Handshake : uint8_t {
  kNone,     // no connection of UCX's, as far as we know, or its handshake is over
  kNew,      // one that this process took in, and UCX has read no message from
  kMade,     // one that this process makes, and UCX has sent nothing there
  kNoneDue,  // UCX awaits no acknowledgement there yet
  kAwaited,  // the last that `send` sent there was UCX's connection request
};

struct Connection {
  std::atomic<Handshake> handshake{Handshake::kNone};
  std::atomic<uint64_t> inode{0};  // of the socket that this is about
  // How often UCX has connected anew for what it awaits here; kRetriesMax: it shall no more.
  std::atomic<uint8_t> retries{0};
};

// Of connections that were made and then ended without an acknowledgement. UCX's own bound is 25,
// and it asserts there (UCX_TCP_MAX_CONN_RETRIES).
constexpr uint8_t kRetriesMax = 8;

// By descriptor; those beyond are left alone. UCX's thread of a connection changes its one, and the
// thread that accepts, before there is any. UCX closes a socket and tells nobody: who finds another
// there (IsTheSame) ends what is known of the first, on whatever thread.
constexpr size_t kDescriptorsMax = size_t{1} << 18;
std::array<Connection, kDescriptorsMax> connections;

// What UCX makes room for where a message begins; in the midst of one it asks for less. 0 = not
// known yet. The same for all connections: UCX_TCP_RX_SEG_SIZE and a header.
std::atomic<size_t> room_for_messages{0};

// What a thread awaits an acknowledgement on, or a connection, and since when. Of its own.
struct Awaited {
  int fd = -1;
  uint64_t inode = 0;
  MonotonicTime since{};
};
thread_local std::vector<Awaited> awaited;
// Of connections that this thread makes; nothing: they are not guarded.
thread_local std::optional<std::chrono::milliseconds> stuck_max_of_made;
// For the connection that UCX makes next: in the same call in which it read of the end of one.
thread_local uint8_t retries_of_next = 0;

// Null: nothing to look at.
Connection* ConnectionOf(int fd) {
  if (fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax) return nullptr;
  Connection& connection = connections[static_cast<size_t>(fd)];
  return connection.handshake.load(std::memory_order_relaxed) == Handshake::kNone ? nullptr
                                                                                  : &connection;
}

uint64_t InodeOf(int fd) {
  struct stat status {};
  return fstat(fd, &status) == 0 ? status.st_ino : 0;
}

// Errors that are a connection's end: at others, such as ENOBUFS, it may live.
bool IsTheEnd(int error) {
  switch (error) {
    case ECONNABORTED:
    case ECONNREFUSED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENOTCONN:
    case EPIPE:
    case ETIMEDOUT:
      return true;
    default:
      return false;
  }
}

bool IsNeeded() {
  static const bool is_needed = [] {
    unsigned major = 0;
    unsigned minor = 0;
    unsigned release = 0;
    ucp_get_version(&major, &minor, &release);
    return major == 1 && minor < 14;
  }();
  return is_needed;
}

void Begin(int fd, Handshake handshake) {
  if (!IsNeeded() || fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax) return;
  Connection& connection = connections[static_cast<size_t>(fd)];
  connection.inode.store(InodeOf(fd), std::memory_order_relaxed);
  connection.retries.store(std::exchange(retries_of_next, 0), std::memory_order_relaxed);
  connection.handshake.store(handshake, std::memory_order_relaxed);
}

void Await(int fd) {
  const auto* const connection = ConnectionOf(fd);
  if (connection == nullptr) return;
  awaited.push_back(
      {fd, connection->inode.load(std::memory_order_relaxed), std::chrono::steady_clock::now()});
}

bool IsTheSame(int fd, const Connection& connection) {
  return InodeOf(fd) == connection.inode.load(std::memory_order_relaxed);
}

ssize_t Send(int fd, const void* data, size_t size, int flags) {
  const ssize_t sent = sendto(fd, data, size, flags, nullptr, 0);
  auto* const connection = ConnectionOf(fd);
  if (connection == nullptr) return sent;
  const int error = errno;
  const Handshake handshake = connection->handshake.load(std::memory_order_relaxed);
  Handshake next = Handshake::kNoneDue;
  if (!IsTheSame(fd, *connection)) {
    next = Handshake::kNone;
  } else if (!IsConnectionRequest(data, size, handshake == Handshake::kMade)) {
    // UCX sends nothing else before the acknowledgement has come, and awaits one once.
    if (handshake == Handshake::kAwaited) next = Handshake::kNone;
  } else if (sent >= 0 || IsTheEnd(error)) {
    next = Handshake::kAwaited;
    if (stuck_max_of_made.has_value() && handshake != Handshake::kMade) Await(fd);
  } else {
    next = handshake;  // it will be sent again
  }
  connection->handshake.store(next, std::memory_order_relaxed);
  errno = error;
  // UCX would connect anew just the same: it will find the end at the next recv.
  return next == Handshake::kAwaited && sent < 0 ? static_cast<ssize_t>(size) : sent;
}

}  // namespace

void GuardHandshake(int fd) { Begin(fd, Handshake::kNew); }

void GuardHandshakesOfThisThread(std::chrono::milliseconds stuck_max) {
  stuck_max_of_made = stuck_max;
}

size_t EndHandshakesOfThisThread(Duration older_than) {
  std::erase_if(awaited, [](const Awaited& each) {
    const auto* const connection = ConnectionOf(each.fd);
    if (connection == nullptr) return true;
    const Handshake handshake = connection->handshake.load(std::memory_order_relaxed);
    return (handshake != Handshake::kAwaited && handshake != Handshake::kMade) ||
           connection->inode.load(std::memory_order_relaxed) != each.inode ||
           InodeOf(each.fd) != each.inode;
  });
  const MonotonicTime now = std::chrono::steady_clock::now();
  for (const Awaited& each : awaited) {
    // This thread's UCX alone closes it, and not now. One that is being made ends at the first
    // time, and reads as ended from the second on.
    if (now - each.since < older_than) continue;
    connections[static_cast<size_t>(each.fd)].retries.store(kRetriesMax, std::memory_order_relaxed);
    (void)shutdown(each.fd, SHUT_RDWR);
  }
  return awaited.size();
}

}  // namespace engram

// The dynamic linker gives UCX the program's own, in front of the C library's. (Not where this is
// part of a library that another program loads.)

extern "C" int connect(int fd, const sockaddr* address, socklen_t size) {
  static const auto next = reinterpret_cast<decltype(&::connect)>(dlsym(RTLD_NEXT, "connect"));
  if (!engram::stuck_max_of_made.has_value()) return next(fd, address, size);
  const auto stuck_ms = static_cast<unsigned>(engram::stuck_max_of_made->count());
  (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &stuck_ms, sizeof(stuck_ms));
  const int result = next(fd, address, size);
  const int error = errno;
  engram::Begin(fd, engram::Handshake::kMade);
  engram::Await(fd);
  errno = error;
  return result;
}

// UCX asks for the peer to know whether a connection was made.
extern "C" int getpeername(int fd, sockaddr* address, socklen_t* size) {
  static const auto next =
      reinterpret_cast<decltype(&::getpeername)>(dlsym(RTLD_NEXT, "getpeername"));
  const int result = next(fd, address, size);
  if (result == 0) return result;
  const int error = errno;
  auto* const connection = engram::ConnectionOf(fd);
  const bool is_made =
      connection != nullptr &&
      connection->handshake.load(std::memory_order_relaxed) == engram::Handshake::kMade &&
      engram::IsTheSame(fd, *connection);
  if (is_made && engram::IsTheEnd(error) && *size >= sizeof(sockaddr_in)) {
    connection->retries.store(engram::kRetriesMax, std::memory_order_relaxed);
    const sockaddr_in nobody{.sin_family = AF_INET};  // for its log
    std::memcpy(address, &nobody, sizeof(nobody));
    *size = sizeof(nobody);
    return 0;
  }
  errno = error;
  return result;
}

extern "C" ssize_t send(int fd, const void* data, size_t size, int flags) {
  const ssize_t sent = engram::Send(fd, data, size, flags);
  engram::NoteWrite(fd, /*has_rest=*/false);  // UCX keeps that in a copy
  if (sent < 0 && !engram::MayBeConnectionMessage(data, size)) engram::LeaveTheEndToReading();
  return sent;
}

extern "C" ssize_t recv(int fd, void* data, size_t size, int flags) {
  using engram::Handshake;
  const ssize_t received = recvfrom(fd, data, size, flags, nullptr, nullptr);
  auto* const connection = engram::ConnectionOf(fd);
  if (connection == nullptr) return received;
  const int error = errno;
  const Handshake handshake = connection->handshake.load(std::memory_order_relaxed);
  if (handshake == Handshake::kNew && size > engram::kMagicBytes) {
    const bool is_the_same = engram::IsTheSame(fd, *connection);
    if (is_the_same) engram::room_for_messages.store(size, std::memory_order_relaxed);
    connection->handshake.store(is_the_same ? Handshake::kNoneDue : Handshake::kNone,
                                std::memory_order_relaxed);
  }
  errno = error;
  if (received > 0 || handshake != Handshake::kAwaited) return received;
  const bool is_the_end = received == 0 ? size > 0 : engram::IsTheEnd(error);
  const bool is_the_same = engram::IsTheSame(fd, *connection);
  errno = error;
  if (!is_the_end || !is_the_same || !engram::stuck_max_of_made.has_value()) return received;
  const uint8_t retries = connection->retries.load(std::memory_order_relaxed);
  // In the midst of a message it would be taken for a part of that.
  const bool message_begins = size == engram::room_for_messages.load(std::memory_order_relaxed);
  if (retries < engram::kRetriesMax || !message_begins) {
    engram::retries_of_next = static_cast<uint8_t>(std::min(retries + 1, int{engram::kRetriesMax}));
    connection->handshake.store(Handshake::kNone, std::memory_order_relaxed);
    return received;
  }
  const engram::Acknowledgement acknowledgement{
      {engram::kConnectionMessage, sizeof(engram::Acknowledgement::event)},
      engram::kAcknowledgementEvent};
  connection->handshake.store(Handshake::kNone, std::memory_order_relaxed);
  std::memcpy(data, &acknowledgement, sizeof(acknowledgement));
  return sizeof(acknowledgement);
}
