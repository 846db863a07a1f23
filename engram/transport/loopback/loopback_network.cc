#include "engram/transport/loopback/loopback_network.h"

#include <utility>

#include "engram/transport/loopback/loopback_reader.h"
#include "engram/transport/loopback/loopback_server.h"
#include "engram/transport/loopback/wire.h"

namespace engram {
namespace {

class LoopbackTransport final : public Transport {
 public:
  explicit LoopbackTransport(std::shared_ptr<loopback::Wire> wire) : wire_(std::move(wire)) {}
  [[nodiscard]] Result<std::unique_ptr<RowReader>> CreateReader(ReaderEvents* events) override {
    return std::make_unique<loopback::LoopbackReader>(wire_, events);
  }

 private:
  const std::shared_ptr<loopback::Wire> wire_;
};

// Changes the switches of one address and tells the readers.
template <typename Change>
void WithLine(loopback::Wire& wire, const std::string& address, Change change) {
  const std::lock_guard lock(wire.mutex);
  change(wire.lines[address]);
  wire.WakeAll();
}

}  // namespace

LoopbackNetwork::LoopbackNetwork(const Clock& clock)
    : wire_(std::make_shared<loopback::Wire>(clock)) {}

std::unique_ptr<RowServer> LoopbackNetwork::CreateServer(const std::string& address,
                                                         Incarnation incarnation) {
  auto node = std::make_shared<loopback::Node>();
  node->incarnation = incarnation;
  WithLine(*wire_, address, [&](loopback::Line& line) {
    if (line.node != nullptr) line.node->lost = true;
    line.node = node;
  });
  return std::make_unique<loopback::LoopbackServer>(wire_, address, std::move(node));
}

std::unique_ptr<Transport> LoopbackNetwork::CreateTransport() {
  return std::make_unique<LoopbackTransport>(wire_);
}

void LoopbackNetwork::Lose(const std::string& address) {
  WithLine(*wire_, address, [](loopback::Line& line) {
    if (line.node != nullptr) line.node->lost = true;
    line.node = nullptr;
  });
}

void LoopbackNetwork::Hold(const std::string& address) {
  WithLine(*wire_, address, [](loopback::Line& line) { line.held = true; });
}

void LoopbackNetwork::Release(const std::string& address) {
  WithLine(*wire_, address, [](loopback::Line& line) { line.held = false; });
}

void LoopbackNetwork::SetDelay(const std::string& address, Duration delay) {
  WithLine(*wire_, address, [&](loopback::Line& line) { line.delay = delay; });
}

void LoopbackNetwork::CorruptRows(const std::string& address, uint64_t rows) {
  WithLine(*wire_, address, [&](loopback::Line& line) { line.corrupt_rows = rows; });
}

void LoopbackNetwork::RefuseSessions(const std::string& address, StatusCode code) {
  WithLine(*wire_, address, [&](loopback::Line& line) { line.refuse_sessions = code; });
}

void LoopbackNetwork::FailReads(const std::string& address, uint64_t reads, StatusCode code) {
  WithLine(*wire_, address, [&](loopback::Line& line) {
    line.fail_reads = reads;
    line.fail_reads_with = code;
  });
}

}  // namespace engram
