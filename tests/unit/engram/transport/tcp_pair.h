#pragma once

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace engram::test {

// The two ends of a TCP connection over loopback, by hand. The node's does not block.
class TcpPair {
 public:
  TcpPair() {
    sockaddr_in address = Loopback();
    socklen_t size = sizeof(address);
    listener_ = ::socket(AF_INET, SOCK_STREAM, 0);
    auto* const there = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(listener_, there, size), 0);
    EXPECT_EQ(::listen(listener_, 1), 0);
    EXPECT_EQ(::getsockname(listener_, there, &size), 0);
    reader = ::socket(AF_INET, SOCK_STREAM, 0);
    EXPECT_EQ(::connect(reader, there, size), 0);
    node = ::accept4(listener_, nullptr, nullptr, SOCK_NONBLOCK);
    EXPECT_GE(node, 0);
  }
  ~TcpPair() {
    close(listener_);
    if (reader >= 0) close(reader);
    if (node >= 0) close(node);
  }
  TcpPair(const TcpPair&) = delete;
  TcpPair& operator=(const TcpPair&) = delete;
  static sockaddr_in Loopback() {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
  }
  void EndReader() {
    close(reader);
    reader = -1;
  }

  int reader = -1;
  int node = -1;

 private:
  int listener_ = -1;
};

}  // namespace engram::test
