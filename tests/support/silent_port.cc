#include "tests/support/silent_port.h"

#include <chrono>
#include <stdexcept>

namespace engram::test {
namespace {
constexpr size_t kQueueMax = 16;
}  // namespace

SilentPort::SilentPort() : acceptor_(io_, {boost::asio::ip::address_v4::loopback(), 0}) {
  acceptor_.listen(0);
  bool connected = true;
  while (connected) {
    if (queued_.size() == kQueueMax) throw std::runtime_error("the queue of a port is never full");
    connected = false;
    queued_.emplace_back(io_).async_connect(acceptor_.local_endpoint(),
                                            [&](const auto& error) { connected = !error; });
    io_.restart();
    io_.run_for(std::chrono::milliseconds(100));
  }
  queued_.back().close();
  io_.restart();
  io_.run();
  queued_.pop_back();
}

void SilentPort::AnswerOne() { (void)acceptor_.accept(); }

}  // namespace engram::test
