// What UCX does at its sockets, done by hand: the functions are those that UCX calls.
#include "engram/transport/ucx/handshake_guard.h"

#include <array>
#include <chrono>
#include <cstring>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

#include "tests/unit/engram/transport/tcp_pair.h"

namespace engram {
namespace {

using std::chrono::milliseconds;
using test::TcpPair;

constexpr size_t kRoom = (256 << 10) + 5;  // of a message and its header

bool IsNeeded() {
  unsigned major = 0;
  unsigned minor = 0;
  unsigned release = 0;
  ucp_get_version(&major, &minor, &release);
  return major == 1 && minor < 14;
}

// uct_tcp_cm_conn_req_pkt_t behind its header.
std::string ConnectionRequest() {
  std::string request(5 + 13 + sizeof(sockaddr_in), '\0');
  const auto bytes = static_cast<uint32_t>(request.size() - 5);
  const uint32_t event = 1;
  request[0] = 32;
  std::memcpy(request.data() + 1, &bytes, sizeof(bytes));
  std::memcpy(request.data() + 5, &event, sizeof(event));
  return request;
}

// As UCX reads: what came, or nothing yet (-1), or the end (0).
ssize_t Receive(int fd, size_t room, std::string* what = nullptr) {
  std::string buffer(room, '\0');
  ssize_t size = -1;
  for (int i = 0; i < 500 && size < 0; ++i) {
    size = ::recv(fd, buffer.data(), room, 0);
    if (size < 0 && errno != EAGAIN) return size;
    if (size < 0) std::this_thread::sleep_for(milliseconds(1));
  }
  if (what != nullptr && size > 0) *what = buffer.substr(0, static_cast<size_t>(size));
  return size;
}

// The node reads the reader's first words and sends its own connection request.
void ShakeHands(TcpPair& pair) {
  GuardHandshake(pair.node);
  const std::string magic(8, 'm');
  ASSERT_EQ(::send(pair.reader, magic.data(), magic.size(), 0), 8);
  ASSERT_EQ(Receive(pair.node, 8), 8);
  ASSERT_EQ(::send(pair.reader, magic.data(), magic.size(), 0), 8);
  ASSERT_EQ(Receive(pair.node, kRoom), 8);
  const std::string request = ConnectionRequest();
  ASSERT_EQ(::send(pair.node, request.data(), request.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(request.size()));
}

class HandshakeGuardTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!IsNeeded()) GTEST_SKIP() << "this UCX needs no guard";
  }
};

// In a thread of its own: what is said of a thread stays so.
template <typename Function>
void OnAThread(Function function) {
  std::thread(function).join();
}

const std::string kAcknowledgement("\x20\x04\0\0\0\x02\0\0\0", 9);

// UCX connects anew then, as it does without us: the reader may live, and have closed just this
// connection.
TEST_F(HandshakeGuardTest, AConnectionThatWasTakenInEndsAsItDoes) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    pair.EndReader();
    EXPECT_LE(Receive(pair.node, kRoom), 0);
  });
}

TEST_F(HandshakeGuardTest, AnEndIsReadAfterTheAcknowledgementWhereUcxShallConnectNoMore) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    std::string what;
    ASSERT_EQ(Receive(pair.node, kRoom, &what), 9);
    EXPECT_EQ(what, kAcknowledgement);
    EXPECT_EQ(Receive(pair.node, kRoom), 0);
  });
}

TEST_F(HandshakeGuardTest, InTheMidstOfAMessageTheEndIsTheEnd) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    EXPECT_EQ(Receive(pair.node, 100), 0);
  });
}

TEST_F(HandshakeGuardTest, OtherThreadsAndSocketsReadWhatThereIs) {
  TcpPair pair;
  ShakeHands(pair);
  EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 0u);
  pair.EndReader();
  EXPECT_LE(Receive(pair.node, kRoom), 0);
  TcpPair without;
  without.EndReader();
  EXPECT_EQ(Receive(without.node, kRoom), 0);
}

TEST_F(HandshakeGuardTest, AnotherSocketWithTheDescriptorOfOneThatHasGoneChangesNothing) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    TcpPair other;
    int descriptor = -1;
    {
      TcpPair gone;  // before it said anything
      GuardHandshake(gone.node);
      descriptor = gone.node;
    }
    ASSERT_EQ(dup2(other.node, descriptor), descriptor);
    ASSERT_EQ(::send(other.reader, "hello", 5, 0), 5);
    EXPECT_EQ(Receive(descriptor, 17 << 10), 5);  // as TLS reads
    close(descriptor);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    EXPECT_EQ(Receive(pair.node, kRoom), 9);
  });
}

unsigned UserTimeout(int fd) {
  unsigned timeout = 0;
  socklen_t size = sizeof(timeout);
  EXPECT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, &size), 0);
  return timeout;
}

TEST_F(HandshakeGuardTest, AConnectionThatAnAnsweringThreadCannotMakeCountsAsMade) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(4321));
    {
      TcpPair known;
      ShakeHands(known);
    }
    sockaddr_in nobody = TcpPair::Loopback();
    nobody.sin_port = htons(1);
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ASSERT_GE(fd, 0);
    (void)::connect(fd, reinterpret_cast<const sockaddr*>(&nobody), sizeof(nobody));
    EXPECT_EQ(UserTimeout(fd), 4321u);
    sockaddr_storage peer{};
    socklen_t size = sizeof(peer);
    EXPECT_EQ(::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size), 0);
    const std::string first = std::string(8, 'm') + ConnectionRequest();
    EXPECT_EQ(::send(fd, first.data(), first.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(first.size()));
    EXPECT_EQ(Receive(fd, kRoom), 9);
    EXPECT_LT(::send(fd, "x", 1, MSG_NOSIGNAL), 0);
    close(fd);
  });
}

// A reader that lives and turns its node away: UCX asserts after 25 times.
TEST_F(HandshakeGuardTest, AConnectionThatEndedTooOftenCountsAsMade) {
  OnAThread([] {
    {
      TcpPair known;
      ShakeHands(known);
    }
    GuardHandshakesOfThisThread(milliseconds(1000));
    const std::string first = std::string(8, 'm') + ConnectionRequest();
    int ended = 0;
    for (ssize_t got = 0; got == 0 && ended < 25; ended += got == 0 ? 1 : 0) {
      TcpPair pair;  // made by this thread; its other end is the reader's
      ASSERT_EQ(::send(pair.reader, first.data(), first.size(), MSG_NOSIGNAL),
                static_cast<ssize_t>(first.size()));
      ASSERT_EQ(Receive(pair.node, kRoom), static_cast<ssize_t>(first.size()));
      close(pair.node);
      pair.node = -1;
      got = Receive(pair.reader, kRoom);
      EXPECT_TRUE(got == 0 || got == 9) << got;
    }
    EXPECT_EQ(ended, 8);
  });
}

TEST_F(HandshakeGuardTest, ConnectionsOfOtherThreadsAreTheirOwn) {
  sockaddr_in nobody = TcpPair::Loopback();
  nobody.sin_port = htons(1);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  ASSERT_GE(fd, 0);
  EXPECT_NE(::connect(fd, reinterpret_cast<const sockaddr*>(&nobody), sizeof(nobody)), 0);
  EXPECT_EQ(UserTimeout(fd), 0u);
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  EXPECT_NE(::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size), 0);
  close(fd);
}

TEST_F(HandshakeGuardTest, AHandshakeThatTakesTooLongIsEnded) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    EXPECT_EQ(EndHandshakesOfThisThread(std::chrono::hours(1)), 1u);
    EXPECT_EQ(::recv(pair.node, std::array<char, 1>().data(), 1, 0), -1);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    EXPECT_EQ(Receive(pair.node, kRoom), 9);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 0u);
  });
}

// A host that answers nothing: here a port whose queue is full.
TEST_F(HandshakeGuardTest, AConnectionThatIsNotMadeInTimeIsEnded) {
  OnAThread([] {
    {
      TcpPair known;
      ShakeHands(known);
    }
    sockaddr_in address = TcpPair::Loopback();
    socklen_t size = sizeof(address);
    auto* const there = reinterpret_cast<sockaddr*>(&address);
    std::array<int, 4> sockets{};
    for (int& fd : sockets) fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    ASSERT_EQ(::bind(sockets[0], there, size), 0);
    ASSERT_EQ(::listen(sockets[0], 0), 0);
    ASSERT_EQ(::getsockname(sockets[0], there, &size), 0);
    for (const int full : {sockets[1], sockets[2]}) (void)::connect(full, there, size);
    GuardHandshakesOfThisThread(milliseconds(60000));
    const int fd = sockets[3];
    ASSERT_EQ(::connect(fd, there, size), -1);
    ASSERT_EQ(errno, EINPROGRESS);
    std::this_thread::sleep_for(milliseconds(20));
    tcp_info info{};
    size = sizeof(info);
    ASSERT_EQ(getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size), 0);
    ASSERT_EQ(info.tcpi_state, TCP_SYN_SENT);
    EXPECT_EQ(EndHandshakesOfThisThread(std::chrono::hours(1)), 1u);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    sockaddr_storage peer{};
    size = sizeof(peer);
    EXPECT_EQ(::getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size), 0);
    const std::string first = std::string(8, 'm') + ConnectionRequest();
    EXPECT_EQ(::send(fd, first.data(), first.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(first.size()));
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 1u);
    EXPECT_EQ(Receive(fd, kRoom), 9);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 0u);
    for (const int each : sockets) close(each);
  });
}

TEST_F(HandshakeGuardTest, AHandshakeThatEndedWellIsNotAwaited) {
  OnAThread([] {
    GuardHandshakesOfThisThread(milliseconds(0));
    TcpPair pair;
    ShakeHands(pair);
    ASSERT_EQ(::send(pair.reader, "\x20\x04\0\0\0\x02\0\0\0", 9, 0), 9);
    ASSERT_EQ(Receive(pair.node, kRoom), 9);
    ASSERT_EQ(::send(pair.node, "answer", 6, MSG_NOSIGNAL), 6);
    EXPECT_EQ(EndHandshakesOfThisThread(milliseconds(0)), 0u);
    pair.EndReader();
    EXPECT_LE(Receive(pair.node, kRoom), 0);
  });
}

}  // namespace
}  // namespace engram
