// Writes as UCX makes them, to a peer that has gone.
#include "engram/transport/ucx/send_guard.h"

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include "tests/unit/engram/transport/tcp_pair.h"

namespace engram {
namespace {

// How sendmsg ends: 0, or its error.
int ErrorOfSending(int fd) {
  std::string data(1000, 'd');
  iovec part{data.data(), data.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return ::sendmsg(fd, &message, MSG_NOSIGNAL) < 0 ? errno : 0;
}

// The same of send, which UCX uses for what it keeps in a copy.
int ErrorOfSendingCopy(int fd, const std::string& data) {
  return ::send(fd, data.data(), data.size(), MSG_NOSIGNAL) < 0 ? errno : 0;
}

// It goes with data unread, as a killed one does: a reset.
void LoseReader(test::TcpPair& pair) {
  ASSERT_EQ(ErrorOfSending(pair.node), 0);
  pollfd there{pair.reader, POLLIN, 0};
  ASSERT_EQ(::poll(&there, 1, 10000), 1);
  pair.EndReader();
  pollfd here{pair.node, POLLIN, 0};
  ASSERT_EQ(::poll(&here, 1, 10000), 1);
}

TEST(SendGuardTest, ALostPeerIsFoundByReading) {
  test::TcpPair pair;
  const SendGuard guard;
  LoseReader(pair);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ErrorOfSending(pair.node), EAGAIN);
  char byte = 0;
  const ssize_t received = ::recv(pair.node, &byte, 1, 0);
  EXPECT_TRUE(received == 0 || (received < 0 && errno == ECONNRESET)) << received;
}

TEST(SendGuardTest, SoItIsWhereUcxSendsACopy) {
  test::TcpPair pair;
  const SendGuard guard;
  LoseReader(pair);
  for (const char* const data : {"a message", "\x01", "\x21 of another kind"}) {
    EXPECT_EQ(ErrorOfSendingCopy(pair.node, data), EAGAIN) << data;
  }
}

// It would send them until the end of time.
TEST(SendGuardTest, OfMessagesThatMakeAConnectionUcxIsToldTheEnd) {
  test::TcpPair pair;
  const SendGuard guard;
  LoseReader(pair);
  const std::string acknowledgement("\x20\x04\0\0\0\x02\0\0\0", 9);
  const uint64_t magic = 0xCAFEBABE12345678;
  std::string first(sizeof(magic) + 39, '\0');
  std::memcpy(first.data(), &magic, sizeof(magic));
  for (const std::string& data : {acknowledgement, acknowledgement.substr(0, 3), first,
                                  first.substr(0, 20), first.substr(0, 2)}) {
    const int error = ErrorOfSendingCopy(pair.node, data);
    EXPECT_TRUE(error == ECONNRESET || error == EPIPE) << error;
  }
}

TEST(SendGuardTest, OtherErrorsAreTold) {
  const SendGuard guard;
  EXPECT_EQ(ErrorOfSendingCopy(-1, "x"), EBADF);
  EXPECT_EQ(ErrorOfSending(-1), EBADF);
}

TEST(SendGuardTest, OutsideWritesFailAsTheyDo) {
  test::TcpPair pair;
  LoseReader(pair);
  { const SendGuard guard; }
  for (const int error : {ErrorOfSending(pair.node), ErrorOfSendingCopy(pair.node, "x")}) {
    EXPECT_TRUE(error == ECONNRESET || error == EPIPE) << error;
  }
}

}  // namespace
}  // namespace engram
