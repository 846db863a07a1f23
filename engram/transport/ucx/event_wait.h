// Sleeping until a worker, another thread or the clock has something to do; and how long to spin
// before it pays to sleep.
#pragma once

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram {

// Thread-compatible, except Notify; Pause, Resume and Alarm may be called while another thread is
// in Sleep.
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

  // Watched descriptors do not end a Sleep, until Resume.
  void Pause() { Listen(0); }
  void Resume();
  // Ends a Sleep that is going on at `at`, if it lasts that long.
  void Alarm(MonotonicTime at);

  // Ends a Sleep, this or the next. Thread-safe.
  void Notify();
  // True once after any number of Notify calls. Cheap.
  [[nodiscard]] bool TakeNotice() {
    return noticed_.load(std::memory_order_relaxed) &&
           noticed_.exchange(false, std::memory_order_acquire);
  }
  [[nodiscard]] bool HasNotice() const { return noticed_.load(std::memory_order_relaxed); }

 private:
  EventWait() = default;
  [[nodiscard]] Status Prepare();
  [[nodiscard]] Status Add(int fd);
  void Listen(uint32_t events);

  int epoll_fd_ = -1;  // owned
  int event_fd_ = -1;  // owned
  int timer_fd_ = -1;  // owned
  std::vector<int> watched_;
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
