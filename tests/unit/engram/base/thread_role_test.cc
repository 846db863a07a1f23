#include "engram/base/thread_role.h"

#include <thread>

#include <gtest/gtest.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

namespace engram {
namespace {

int Nice() { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(::gettid())); }

// Each in a thread of its own: a role stays.
TEST(ThreadRoleTest, AComputeThreadComesAfterTheOthersAndNoThreadElseDoes) {
  const int before = Nice();
  std::thread([before] {
    BecomeComputeThread();
    EXPECT_EQ(Nice(), std::max(before, 5));
    BecomeComputeThread();
    EXPECT_EQ(Nice(), std::max(before, 5));
  }).join();
  EXPECT_EQ(Nice(), before);
}

TEST(ThreadRoleTest, AComputeThreadThatIsLowerAlreadyStaysThere) {
  std::thread([] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 12), 0);
    BecomeComputeThread();
    EXPECT_EQ(Nice(), 12);
  }).join();
}

TEST(ThreadRoleTest, AnIoThreadHasItsNameAndKeepsPolicyAndNice) {
  std::thread([] {
    ASSERT_EQ(::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), 7), 0);
    BecomeIoThread("a-name-longer-than-fifteen", kReaderSlice);
    char name[16] = {};
    ASSERT_EQ(::pthread_getname_np(::pthread_self(), name, sizeof(name)), 0);
    EXPECT_STREQ(name, "a-name-longer-t");
    EXPECT_EQ(::sched_getscheduler(0), SCHED_OTHER);
    EXPECT_EQ(Nice(), 7);
  }).join();
}

}  // namespace
}  // namespace engram
