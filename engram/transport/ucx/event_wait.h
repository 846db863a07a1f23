// Sleeping until a worker, another thread or the clock has something to do; and how long to spin
// before it pays to sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram {

// Thread-compatible, except Notify.
class EventWait {
 public:
  [[nodiscard]] static Result<std::unique_ptr<EventWait>> Create();
  ~EventWait();
  EventWait(const EventWait&) = delete;
  EventWait& operator=(const EventWait&) = delete;

  // From now on Sleep ends when `fd` is readable. `fd` outlives this.
  [[nodiscard]] Status Watch(int fd);
  // Returns when a watched descriptor is readable, Notify was called since TakeNotice, or at
  // `until` (to a millisecond, later rather than earlier).
  void Sleep(MonotonicTime until);

  // Ends a Sleep, this or the next. Thread-safe.
  void Notify();
  // True once after any number of Notify calls. Cheap.
  [[nodiscard]] bool TakeNotice() {
    return noticed_.load(std::memory_order_relaxed) &&
           noticed_.exchange(false, std::memory_order_acquire);
  }
  [[nodiscard]] bool HasNotice() const { return noticed_.load(std::memory_order_relaxed); }

 private:
  EventWait(int epoll_fd, int event_fd) : epoll_fd_(epoll_fd), event_fd_(event_fd) {}
  const int epoll_fd_;  // owned
  const int event_fd_;  // owned
  std::atomic<bool> noticed_{false};
};

// How long to look for work before sleeping: longer and longer, up to `max`, while work comes that
// soon, next to nothing while it does not. Thread-compatible.
class SpinBudget {
 public:
  explicit SpinBudget(Duration max) : max_(max), now_(max) {}
  [[nodiscard]] Duration now() const { return now_; }
  // Work came `idle` after there was none, spun or slept. Sleeping and waking took part of it.
  void WorkCameAfter(Duration idle) {
    now_ = idle <= max_ * 2 ? std::min(max_, std::max(now_ * 2, max_ / 8)) : now_ / 2;
  }

 private:
  const Duration max_;
  Duration now_;
};

}  // namespace engram
