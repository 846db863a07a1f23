// A memory node process: the production slot store and lease book; around them what its agent and
// its loader do, over the simulated network.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "engram/rpc/coordinator_choice.h"
#include "proto/node.pb.h"
#include "shard_server/slot_assignment.h"
#include "shard_server/slot_store.h"
#include "tests/sim/planted_bug.h"
#include "tests/sim/sim_coordinator.h"
#include "tests/sim/sim_row_server.h"
#include "tests/sim/world.h"

namespace engram::sim {

class SimNode {
 public:
  // What a node needs of the rest of the cluster.
  struct Surroundings {
    World* world = nullptr;
    Network* network = nullptr;
    PlantedBug bug = PlantedBug::kNone;
    std::function<SimCoordinator*(const std::string&)> coordinator;
    std::vector<std::string> coordinators;
    std::function<SimNode*(const std::string&)> node;
    // Called before memory is written for a slot: no reader may use it.
    std::function<void(const SimNode&, std::span<const std::byte>)> before_write;
  };
  SimNode(const Surroundings& around, const std::string& name, uint64_t memory_bytes);

  // A new process with a new incarnation, which holds nothing.
  void Start();
  void Kill();
  [[nodiscard]] Process* process() { return &process_; }
  [[nodiscard]] const Process& process() const { return process_; }
  [[nodiscard]] const std::string& name() const { return process_.name(); }
  // Precondition: up.
  [[nodiscard]] SimRowServer& server() { return *server_; }
  [[nodiscard]] const SlotStore& store() const { return *store_; }

 private:
  struct Version {
    SlotAssignment assignment;
    Status error;
    std::map<SlotIndex, Incarnation> failed_sources;
  };
  static constexpr size_t kFillsMax = 8;

  // -- the agent
  void Converse();
  void CallFailed(const std::string& leader);
  void Register();
  void Heartbeat();
  void TakeReply(const proto::HeartbeatReply& reply);
  [[nodiscard]] bool TakeTerm(uint64_t term);
  // Calls the coordinator chosen; `serve` happens there, and is given what to answer with.
  template <typename Message>
  void Call(std::function<void(SimCoordinator*, const Reply<Message>&)> serve,
            std::function<void(Result<Message>)> done);

  // -- the store
  void Apply(SlotAssignment assignment);
  void Tick();
  void Fill();
  void FillFromCheckpoint(TableVersion version, const EmptySlot& slot);
  void FillFromNode(TableVersion version, const EmptySlot& slot, const SourceNode& source);
  void Filled(TableVersion version, const EmptySlot& slot, std::span<const std::byte> rows);
  void EndFill(const EmptySlot& slot);

  const Surroundings around_;
  World* world_;
  Process process_;
  const uint64_t memory_bytes_;
  Incarnation incarnation_;
  std::unique_ptr<SimRowServer> server_;
  std::unique_ptr<SlotStore> store_;

  std::optional<CoordinatorChoice> choice_;
  Connection link_;
  uint64_t calls_ = 0;
  bool must_register_ = true;
  uint64_t term_ = 0;
  std::map<uint64_t, uint64_t> known_revisions_;
  std::map<TableVersion, Version> versions_;
  size_t fills_ = 0;
};

}  // namespace engram::sim
