#pragma once

#include <memory>
#include <string>
#include <vector>

#include "engram/transport/loopback/wire.h"
#include "engram/transport/row_server.h"

namespace engram::loopback {

class LoopbackServer final : public RowServer {
 public:
  LoopbackServer(std::shared_ptr<Wire> wire, std::string address, std::shared_ptr<Node> node);
  ~LoopbackServer() override;

  [[nodiscard]] Result<Region> AllocateRegion(uint64_t bytes) override;
  void Serve(std::shared_ptr<const ServedSlots> slots) override;
  void Drop(TableVersion version) override;
  // Loopback readers copy rows under the wire's mutex and take none by themselves.
  [[nodiscard]] bool AllAcknowledged(TableVersion /*version*/, Epoch /*epoch*/) override {
    return true;
  }
  [[nodiscard]] MemoryRelease StartRelease(TableVersion version, Epoch epoch,
                                           uint64_t generation) override {
    return {version, epoch, generation, 0, 0};
  }
  [[nodiscard]] bool MayReuse(const MemoryRelease& /*release*/) override { return true; }
  [[nodiscard]] std::string address() const override { return address_; }
  [[nodiscard]] RowServerStats stats() const override;

 private:
  const std::shared_ptr<Wire> wire_;
  const std::string address_;
  const std::shared_ptr<Node> node_;
  std::vector<std::unique_ptr<std::byte[]>> regions_;  // guarded by Wire::mutex
};

}  // namespace engram::loopback
