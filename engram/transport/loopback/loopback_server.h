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
  [[nodiscard]] std::string address() const override { return address_; }
  [[nodiscard]] RowServerStats stats() const override;

 private:
  const std::shared_ptr<Wire> wire_;
  const std::string address_;
  const std::shared_ptr<Node> node_;
  std::vector<std::unique_ptr<std::byte[]>> regions_;  // guarded by Wire::mutex
};

}  // namespace engram::loopback
