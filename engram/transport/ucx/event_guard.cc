#include "engram/transport/ucx/event_guard.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <fstream>
#include <string>
#include <utility>

#include <dlfcn.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "engram/base/clock.h"
#include "engram/transport/ucx/send_guard.h"

namespace engram {
namespace {

// By descriptor; those beyond are left alone: whether the last write there has a rest. A socket
// that has the descriptor of one that UCX closed is written to by send(2) first, which has none.
constexpr size_t kDescriptorsMax = size_t{1} << 18;
std::array<std::atomic<bool>, kDescriptorsMax> has_rest_of;

// The room that UCX was told of last, and has not written into yet.
struct Room {
  int set = -1;            // of epoll
  void* socket = nullptr;  // as UCX names it there; null: none
};
thread_local Room told;
// UCX is told of room in vain while a connection is made, too, and looking that up takes a while.
constexpr std::chrono::milliseconds kLookEvery{100};
thread_local MonotonicTime next_look;

// -1: there is none any more.
int DescriptorOf(const Room& room) {
  std::ifstream info("/proc/self/fdinfo/" + std::to_string(room.set));
  std::string line;
  while (std::getline(info, line)) {
    int fd = -1;
    unsigned long long data = 0;
    if (std::sscanf(line.c_str(), "tfd: %d events: %*x data: %llx", &fd, &data) == 2 &&
        data == reinterpret_cast<uintptr_t>(room.socket)) {
      return fd;
    }
  }
  return -1;
}

// UCX was told of room and wrote nothing. Where the rest of a message waits for it, that has been
// given up.
void EndIfGivenUp(const Room& room) {
  const MonotonicTime now = std::chrono::steady_clock::now();
  if (now < next_look) return;
  next_look = now + kLookEvery;
  const int fd = DescriptorOf(room);
  if (fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax ||
      !has_rest_of[static_cast<size_t>(fd)].load(std::memory_order_relaxed)) {
    return;
  }
  // UCX reads the end and closes it. What the peer has not taken until then goes too: it is slow.
  const linger at_once{1, 0};
  (void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof(at_once));
  (void)shutdown(fd, SHUT_RDWR);
}

// By chance, for with any order two sockets may take turns such that one never gets its other news.
bool ReadsFirst() {
  thread_local uint32_t state = 0;
  state = state * 1664525u + 1013904223u;
  return (state >> 31) != 0;
}

// Of both news one: the other is there still at the next call.
void TellOne(int set, epoll_event* event) {
  constexpr uint32_t kBoth = EPOLLIN | EPOLLOUT;
  const uint32_t events = event->events;
  if ((events & kBoth) == kBoth) {
    // There is nothing to write to a connection that is over.
    const bool is_over = (events & (EPOLLERR | EPOLLHUP)) != 0;
    event->events = events & ~(is_over || ReadsFirst() ? EPOLLOUT : EPOLLIN);
  }
  if ((event->events & EPOLLOUT) != 0) told = {set, event->data.ptr};
}

}  // namespace

void NoteWrite(int fd, bool has_rest) {
  // Others, between two calls of UCX's, are none that it makes because there is room.
  if (told.socket != nullptr && UcxMakesProgress()) told.socket = nullptr;
  if (fd < 0 || static_cast<size_t>(fd) >= kDescriptorsMax) return;
  auto& known = has_rest_of[static_cast<size_t>(fd)];
  if (known.load(std::memory_order_relaxed) != has_rest) {
    known.store(has_rest, std::memory_order_relaxed);
  }
}

}  // namespace engram

// The dynamic linker gives UCX the program's own, in front of the C library's. (Not where this is
// part of a library that another program loads.)
extern "C" int epoll_wait(int set, epoll_event* events, int events_max, int timeout_ms) {
  static const auto next =
      reinterpret_cast<decltype(&::epoll_wait)>(dlsym(RTLD_NEXT, "epoll_wait"));
  // As UCX asks for news of its sockets. (UCX_TCP_MAX_POLL: with more than one, the news of one
  // socket may end another that has news too; who sets that has it as UCX does it.)
  const bool is_of_ucx = events_max == 1 && timeout_ms == 0 && engram::UcxMakesProgress();
  if (is_of_ucx && engram::told.socket != nullptr) {
    engram::EndIfGivenUp(std::exchange(engram::told, {}));
  }
  const int count = next(set, events, events_max, timeout_ms);
  if (is_of_ucx && count == 1) engram::TellOne(set, events);
  return count;
}
