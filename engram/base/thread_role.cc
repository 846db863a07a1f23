#include "engram/base/thread_role.h"

#include <algorithm>
#include <cstdint>

#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace engram {
namespace {

// The kernel's struct sched_attr, first version; the C library of Debian 12 does not have it.
struct SchedulingAttributes {
  uint32_t size = sizeof(SchedulingAttributes);
  uint32_t policy = 0;
  uint64_t flags = 0;
  int32_t nice = 0;
  uint32_t priority = 0;
  uint64_t runtime_ns = 0;  // of a thread of the ordinary policy: its time slice
  uint64_t deadline_ns = 0;
  uint64_t period_ns = 0;
};
static_assert(sizeof(SchedulingAttributes) == 48);

constexpr int kComputeNice = 5;

}  // namespace

void BecomeIoThread(const std::string& name, std::chrono::microseconds slice) {
  (void)::pthread_setname_np(::pthread_self(), name.substr(0, 15).c_str());
  SchedulingAttributes attributes;
  if (::syscall(SYS_sched_getattr, 0, &attributes, sizeof(attributes), 0) != 0) return;
  if (attributes.policy != SCHED_OTHER) return;  // somebody gave it a real-time class
  attributes.size = sizeof(attributes);
  attributes.flags = 0;
  attributes.runtime_ns = static_cast<uint64_t>(std::chrono::nanoseconds(slice).count());
  // Where it is refused, the thread wakes as soon as everybody else's.
  (void)::syscall(SYS_sched_setattr, 0, &attributes, 0);
}

void BecomeComputeThread() {
  thread_local bool done = false;
  if (done) return;
  done = true;
  const auto self = static_cast<id_t>(::gettid());
  const int nice = ::getpriority(PRIO_PROCESS, self);
  (void)::setpriority(PRIO_PROCESS, self, std::max(nice, kComputeNice));
}

}  // namespace engram
