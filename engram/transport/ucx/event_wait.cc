#include "engram/transport/ucx/event_wait.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

namespace engram {
namespace {

Status SystemError(const char* doing) {
  return {StatusCode::kIo, std::string(doing) + ": " + std::strerror(errno)};
}

}  // namespace

Result<std::unique_ptr<EventWait>> EventWait::Create() {
  const int epoll_fd = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd < 0) return Error(SystemError("epoll_create1"));
  const int event_fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_fd < 0) {
    const Status status = SystemError("eventfd");
    ::close(epoll_fd);
    return Error(status);
  }
  std::unique_ptr<EventWait> wait(new EventWait(epoll_fd, event_fd));
  ENGRAM_TRY(wait->Watch(event_fd));
  return wait;
}

EventWait::~EventWait() {
  ::close(event_fd_);
  ::close(epoll_fd_);
}

Status EventWait::Watch(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) return SystemError("epoll_ctl");
  return {};
}

void EventWait::Sleep(MonotonicTime until) {
  // `until` may be MonotonicTime::min() or max(): a difference with them overflows.
  const MonotonicTime now = std::chrono::steady_clock::now();
  const MonotonicTime end = std::clamp<MonotonicTime>(until, now, now + std::chrono::hours(1));
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(end - now);
  std::array<epoll_event, 4> events{};
  const int count = ::epoll_wait(epoll_fd_, events.data(), static_cast<int>(events.size()),
                                 static_cast<int>(ms.count()));
  for (int i = 0; i < count; ++i) {
    if (events[static_cast<size_t>(i)].data.fd != event_fd_) continue;
    uint64_t notices = 0;
    [[maybe_unused]] const ssize_t got = ::read(event_fd_, &notices, sizeof(notices));
  }
}

void EventWait::Notify() {
  // One write wakes; more before it is noticed would only cost system calls.
  if (noticed_.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(event_fd_, &one, sizeof(one));
}

}  // namespace engram
