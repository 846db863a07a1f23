#include "engram/transport/loopback/loopback_server.h"

#include <new>
#include <utility>

namespace engram::loopback {

LoopbackServer::LoopbackServer(std::shared_ptr<Wire> wire, std::string address,
                               std::shared_ptr<Node> node)
    : wire_(std::move(wire)), address_(std::move(address)), node_(std::move(node)) {}

LoopbackServer::~LoopbackServer() {
  const std::lock_guard lock(wire_->mutex);
  node_->lost = true;
  node_->versions.clear();
  Line& line = wire_->lines[address_];
  if (line.node == node_) line.node = nullptr;
  wire_->WakeAll();
}

Result<Region> LoopbackServer::AllocateRegion(uint64_t bytes) {
  std::unique_ptr<std::byte[]> memory(new (std::nothrow) std::byte[bytes]());
  if (memory == nullptr) {
    return Error(StatusCode::kResourceExhausted,
                 "no memory for a region of " + std::to_string(bytes) + " bytes");
  }
  const std::lock_guard lock(wire_->mutex);
  Region region;
  region.number = static_cast<uint32_t>(regions_.size());
  region.bytes = {memory.get(), bytes};
  regions_.push_back(std::move(memory));
  return region;
}

void LoopbackServer::Serve(std::shared_ptr<const ServedSlots> slots) {
  const std::lock_guard lock(wire_->mutex);
  const TableVersion version = slots->version();
  node_->versions[version] = std::move(slots);
  wire_->WakeAll();
}

void LoopbackServer::Drop(TableVersion version) {
  const std::lock_guard lock(wire_->mutex);
  node_->versions.erase(version);
  wire_->WakeAll();
}

RowServerStats LoopbackServer::stats() const {
  const std::lock_guard lock(wire_->mutex);
  return node_->stats;
}

}  // namespace engram::loopback
