#include "engram/transport/ucx/send_guard.h"

#include <cerrno>
#include <cstddef>
#include <utility>

#include <dlfcn.h>
#include <sys/socket.h>

#include "engram/transport/ucx/event_guard.h"

namespace engram {
namespace {

thread_local bool ucx_makes_progress = false;

// Of a TCP connection. At others, such as EBADF, UCX is told.
bool IsFoundOtherwise(int error) {
  switch (error) {
    case ECONNABORTED:
    case ECONNRESET:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case EPIPE:
    case ETIMEDOUT:
    case ENOBUFS:
    case ENOMEM:
      return true;
    default:
      return false;
  }
}

size_t BytesOf(const msghdr& message) {
  size_t bytes = 0;
  for (size_t i = 0; i < message.msg_iovlen; ++i) bytes += message.msg_iov[i].iov_len;
  return bytes;
}

}  // namespace

SendGuard::SendGuard() : outer_(std::exchange(ucx_makes_progress, true)) {}
SendGuard::~SendGuard() { ucx_makes_progress = outer_; }

bool UcxMakesProgress() { return ucx_makes_progress; }

void LeaveTheEndToReading() {
  if (ucx_makes_progress && IsFoundOtherwise(errno)) errno = EAGAIN;
}

}  // namespace engram

// The dynamic linker gives UCX the program's own, in front of the C library's. (Not where this is
// part of a library that another program loads.) UCX's send(2) is in handshake_guard.cc.
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static const auto next = reinterpret_cast<decltype(&::sendmsg)>(dlsym(RTLD_NEXT, "sendmsg"));
  const ssize_t sent = next(fd, message, flags);
  engram::NoteWrite(fd, sent < 0 || static_cast<size_t>(sent) < engram::BytesOf(*message));
  if (sent < 0) engram::LeaveTheEndToReading();
  return sent;
}
