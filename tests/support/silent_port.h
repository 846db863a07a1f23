// A TCP port that answers nobody who connects, as the port of a host that is cut off.
#pragma once

#include <cstdint>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>

namespace engram::test {

// On 127.0.0.1: its queue of connections is full, so the kernel drops what else asks to connect.
// Thread-compatible.
class SilentPort {
 public:
  SilentPort();
  [[nodiscard]] uint16_t number() const { return acceptor_.local_endpoint().port(); }
  // From now on one more is connected, as soon as it asks again.
  void AnswerOne();

 private:
  boost::asio::io_context io_;
  boost::asio::ip::tcp::acceptor acceptor_;
  std::vector<boost::asio::ip::tcp::socket> queued_;
};

}  // namespace engram::test
