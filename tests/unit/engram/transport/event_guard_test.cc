// What UCX asks of epoll and does with the answers, by hand: the functions are those that it calls.
#include "engram/transport/ucx/event_guard.h"

#include <cerrno>
#include <chrono>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engram/transport/ucx/send_guard.h"
#include "tests/unit/engram/transport/tcp_pair.h"

namespace engram {
namespace {

constexpr uint32_t kBoth = EPOLLIN | EPOLLOUT;

// A set of epoll that watches the node's end for both news, as UCX's does once it has sent its
// first words.
class Watched {
 public:
  explicit Watched(int fd) : set_(::epoll_create(1)) {
    EXPECT_EQ(::send(fd, "x", 1, MSG_NOSIGNAL), 1);
    epoll_event event{.events = kBoth, .data = {.ptr = this}};
    EXPECT_EQ(::epoll_ctl(set_, EPOLL_CTL_ADD, fd, &event), 0);
  }
  ~Watched() { close(set_); }
  Watched(const Watched&) = delete;
  Watched& operator=(const Watched&) = delete;
  // 0: there is none.
  [[nodiscard]] uint32_t News(int events_max = 1) const {
    epoll_event events[2] = {};
    const int count = ::epoll_wait(set_, events, events_max, 0);
    EXPECT_TRUE(count == 0 || (count == 1 && events[0].data.ptr == this)) << count;
    return count == 1 ? events[0].events : 0;
  }
  // Of many.
  template <typename Done>
  [[nodiscard]] bool Eventually(Done done) const {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (std::chrono::steady_clock::now() < end) {
      if (done(News())) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    return false;
  }

 private:
  const int set_;
};

// As UCX writes from our memory. The bytes that the kernel took; -1 with EAGAIN: none.
ssize_t SendFromMemory(int fd, const std::string& data) {
  iovec parts[2] = {{const_cast<char*>(data.data()), 10},
                    {const_cast<char*>(data.data()) + 10, data.size() - 10}};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  return ::sendmsg(fd, &message, MSG_NOSIGNAL);
}

// Writes until the kernel takes a part only.
void Fill(const test::TcpPair& pair) {
  const std::string data(100'000, 'd');
  for (;;) {
    const ssize_t sent = SendFromMemory(pair.node, data);
    if (sent < static_cast<ssize_t>(data.size())) return;
  }
}

void Drain(const test::TcpPair& pair) {
  std::string room(1 << 20, '\0');
  while (::recv(pair.reader, room.data(), room.size(), MSG_DONTWAIT) > 0) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

bool HasEnded(const test::TcpPair& pair) {
  char byte = 0;
  return ::recv(pair.node, &byte, 1, MSG_DONTWAIT) == 0;
}

TEST(EventGuardTest, OfBothNewsEachComesAlone) {
  test::TcpPair pair;
  ASSERT_EQ(::send(pair.reader, "x", 1, 0), 1);
  const Watched watched(pair.node);
  const SendGuard guard;
  int reads = 0;
  int writes = 0;
  ASSERT_TRUE(watched.Eventually([](uint32_t news) { return (news & EPOLLIN) != 0; }));
  for (int i = 0; i < 200; ++i) {
    const uint32_t news = watched.News();
    EXPECT_TRUE(news == EPOLLIN || news == EPOLLOUT) << news;
    ++(news == EPOLLIN ? reads : writes);
  }
  EXPECT_GT(reads, 50);
  EXPECT_GT(writes, 50);
}

TEST(EventGuardTest, OneOfThemIsToldAsItIs) {
  test::TcpPair pair;
  const Watched watched(pair.node);
  const SendGuard guard;
  for (int i = 0; i < 20; ++i) EXPECT_EQ(watched.News(), EPOLLOUT);
  EXPECT_FALSE(HasEnded(pair));
}

TEST(EventGuardTest, OutsideAndForOthersTheyComeTogether) {
  test::TcpPair pair;
  ASSERT_EQ(::send(pair.reader, "x", 1, 0), 1);
  const Watched watched(pair.node);
  ASSERT_TRUE(watched.Eventually([](uint32_t news) { return news == kBoth; }));
  EXPECT_EQ(watched.News(), kBoth);
  const SendGuard guard;
  EXPECT_EQ(watched.News(/*events_max=*/2), kBoth);
}

TEST(EventGuardTest, TheEndIsToldFirst) {
  test::TcpPair pair;
  const Watched watched(pair.node);
  const SendGuard guard;
  char byte = 0;
  ASSERT_EQ(::recv(pair.reader, &byte, 1, MSG_PEEK), 1);
  pair.EndReader();  // with a byte that it has not taken: a reset
  ASSERT_TRUE(watched.Eventually([](uint32_t news) { return (news & EPOLLHUP) != 0; }));
  for (int i = 0; i < 20; ++i) EXPECT_EQ(watched.News() & kBoth, EPOLLIN);
}

TEST(EventGuardTest, AConnectionWhoseMessageWasGivenUpIsEnded) {
  test::TcpPair pair;
  const Watched watched(pair.node);
  Fill(pair);
  const SendGuard guard;
  EXPECT_EQ(watched.News(), 0u);
  EXPECT_FALSE(HasEnded(pair));
  Drain(pair);
  // It is told of room, and does nothing.
  EXPECT_TRUE(watched.Eventually([](uint32_t news) { return (news & kBoth) == EPOLLIN; }));
  EXPECT_TRUE(HasEnded(pair));
}

TEST(EventGuardTest, OneWhoseRestIsSentGoesOn) {
  test::TcpPair pair;
  const Watched watched(pair.node);
  const SendGuard guard;
  for (int round = 0; round < 5; ++round) {
    Fill(pair);
    Drain(pair);
    ASSERT_TRUE(watched.Eventually([](uint32_t news) { return news == EPOLLOUT; }));
    // From our memory, or from its own.
    if (round % 2 == 0) {
      ASSERT_GT(SendFromMemory(pair.node, std::string(100, 'r')), 0);
    } else {
      ASSERT_GT(::send(pair.node, "rest", 4, MSG_NOSIGNAL), 0);
    }
    // With nothing more to send it takes room for none of its news.
    for (int i = 0; i < 150; ++i) {
      EXPECT_EQ(watched.News(), EPOLLOUT);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_FALSE(HasEnded(pair));
  }
}

TEST(EventGuardTest, WritesBetweenTwoRoundsOfUcxAreNotItsOwn) {
  test::TcpPair pair;
  test::TcpPair other;
  const Watched watched(pair.node);
  Fill(pair);
  Drain(pair);
  EXPECT_TRUE(watched.Eventually([&](uint32_t news) {
    {
      const SendGuard guard;
      news = watched.News();
    }
    (void)::send(other.node, "x", 1, MSG_NOSIGNAL);
    return (news & kBoth) == EPOLLIN;
  }));
  EXPECT_TRUE(HasEnded(pair));
}

}  // namespace
}  // namespace engram
