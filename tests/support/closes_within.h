// Whether the other side ends a connection.
#pragma once

#include <chrono>

#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <poll.h>

namespace engram::test {

// The peer has closed this connection, or does while we wait. Takes nothing of what has come.
[[nodiscard]] inline bool ClosesWithin(boost::asio::ip::tcp::socket& socket,
                                       std::chrono::milliseconds patience) {
  pollfd wanted{socket.native_handle(), POLLIN, 0};
  if (::poll(&wanted, 1, static_cast<int>(patience.count())) <= 0) return false;
  char byte = 0;
  boost::system::error_code error;
  (void)socket.receive(boost::asio::buffer(&byte, 1), boost::asio::ip::tcp::socket::message_peek,
                       error);
  return static_cast<bool>(error);
}

}  // namespace engram::test
