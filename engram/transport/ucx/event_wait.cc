#include "engram/transport/ucx/event_wait.h"

#include <array>
#include <cerrno>
#include <cstring>

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

namespace engram {
namespace {

Status SystemError(const char* doing) {
  return {StatusCode::kIo, std::string(doing) + ": " + std::strerror(errno)};
}

}  // namespace

Result<std::unique_ptr<EventWait>> EventWait::Create() {
  std::unique_ptr<EventWait> wait(new EventWait());
  ENGRAM_TRY(wait->Prepare());
  return wait;
}

Status EventWait::Prepare() {
  epoll_fd_ = ::epoll_create1(EPOLL_CLOEXEC);
  if (epoll_fd_ < 0) return SystemError("epoll_create1");
  event_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (event_fd_ < 0) return SystemError("eventfd");
  timer_fd_ = ::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
  if (timer_fd_ < 0) return SystemError("timerfd_create");
  ENGRAM_RETURN_IF_ERROR(Add(event_fd_));
  return Add(timer_fd_);
}

EventWait::~EventWait() {
  for (const int fd : {timer_fd_, event_fd_, epoll_fd_}) {
    if (fd >= 0) ::close(fd);
  }
}

Status EventWait::Add(int fd) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.fd = fd;
  if (::epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event) != 0) return SystemError("epoll_ctl");
  return {};
}

Status EventWait::Watch(int fd) {
  ENGRAM_RETURN_IF_ERROR(Add(fd));
  watched_.push_back(fd);
  return {};
}

void EventWait::Listen(uint32_t events) {
  for (const int fd : watched_) {
    epoll_event event{};
    event.events = events;
    event.data.fd = fd;
    [[maybe_unused]] const int changed = ::epoll_ctl(epoll_fd_, EPOLL_CTL_MOD, fd, &event);
  }
}

void EventWait::Resume() { Listen(EPOLLIN); }

void EventWait::Alarm(MonotonicTime at) {
  // std::chrono::steady_clock is CLOCK_MONOTONIC. Zero would disarm.
  const auto ns = std::max<int64_t>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(at.time_since_epoch()).count(), 1);
  constexpr int64_t kSecond = 1'000'000'000;
  itimerspec alarm{};
  alarm.it_value.tv_sec = ns / kSecond;
  alarm.it_value.tv_nsec = ns % kSecond;
  [[maybe_unused]] const int set = ::timerfd_settime(timer_fd_, TFD_TIMER_ABSTIME, &alarm, nullptr);
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
    const int fd = events[static_cast<size_t>(i)].data.fd;
    if (fd != event_fd_ && fd != timer_fd_) continue;
    uint64_t times = 0;
    [[maybe_unused]] const ssize_t got = ::read(fd, &times, sizeof(times));
  }
}

void EventWait::Notify() {
  // One write wakes; more before it is noticed would only cost system calls.
  if (noticed_.exchange(true, std::memory_order_acq_rel)) return;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(event_fd_, &one, sizeof(one));
}

}  // namespace engram
