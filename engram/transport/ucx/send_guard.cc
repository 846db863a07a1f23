#include "engram/transport/ucx/send_guard.h"

#include <cerrno>
#include <utility>

#include <dlfcn.h>
#include <sys/socket.h>

namespace engram {
namespace {

thread_local bool is_ucx_sending = false;

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

}  // namespace

SendGuard::SendGuard() : outer_(std::exchange(is_ucx_sending, true)) {}
SendGuard::~SendGuard() { is_ucx_sending = outer_; }

}  // namespace engram

// The dynamic linker gives UCX the program's own, in front of the C library's. (Not where this is
// part of a library that another program loads.)
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
  static const auto next = reinterpret_cast<decltype(&::sendmsg)>(dlsym(RTLD_NEXT, "sendmsg"));
  const ssize_t sent = next(fd, message, flags);
  if (sent < 0 && engram::is_ucx_sending && engram::IsFoundOtherwise(errno)) errno = EAGAIN;
  return sent;
}
