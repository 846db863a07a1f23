// A client process: the production read scheduler and directory state over simulated readers and
// coordinators; it reads random rows all the time and checks every one.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "client/directory_state.h"
#include "client/read_scheduler.h"
#include "engram/rpc/coordinator_choice.h"
#include "tests/sim/sim_coordinator.h"
#include "tests/sim/sim_reader.h"
#include "tests/sim/simulation.h"
#include "tests/sim/world.h"

namespace engram::sim {

class SimClient final : public ScheduledRows, public ReaderEvents {
 public:
  struct Surroundings {
    World* world = nullptr;
    Network* network = nullptr;
    PlantedBug bug = PlantedBug::kNone;
    std::function<SimCoordinator*(const std::string&)> coordinator;
    std::vector<std::string> coordinators;
    std::function<SimNode*(const std::string&)> listener;
    std::function<bool(const SimNode&)> same_host;
    Duration stall_max{};
    // True: no fault excuses a batch that fails.
    std::function<bool()> reads_must_succeed;
  };
  SimClient(const Surroundings& around, const std::string& name);

  void Start();
  [[nodiscard]] Process* process() { return &process_; }
  [[nodiscard]] SimReader& reader() { return reader_; }
  [[nodiscard]] const SimReader& reader() const { return reader_; }
  [[nodiscard]] const DirectoryState& directory() const { return directory_; }
  // Its part of them.
  [[nodiscard]] Figures figures() const;

  // -- ScheduledRows
  void TakeRows(uint32_t slot, std::span<const uint32_t> rows, const std::byte* stored,
                uint8_t* taken) override;
  void OnLayerDone(uint32_t slot, int32_t layer_index, const Status& status,
                   uint64_t rows_failed) override;
  void OnRowWrong(SlotIndex table_slot, const ShardMapNode& node) override;
  void OnReadRetried() override {}
  void OnReadHedged() override { ++figures_.reads_hedged; }
  void OnHedgeWon() override {}
  void OnMapWanted() override {}

  // -- ReaderEvents
  void OnOpen(SessionId session, const SessionInfo& info) override;
  void OnClosed(SessionId session, const Status& why) override;
  void OnRows(uint64_t tag, const RowChunk& chunk) override;
  void OnReadDone(uint64_t tag, StatusCode status) override;
  void OnEpoch(SessionId session, Epoch newest) override;
  void OnBusy(SessionId session, Duration retry_after) override;

 private:
  static constexpr uint32_t kTickets = 2;
  static constexpr uint32_t kRowsMax = 12;

  void Poll();
  void PollFailed(const std::string& leader);
  void StartScheduler();
  void NextBatch(uint32_t slot);
  void ArmTick();

  const Surroundings around_;
  World* world_;
  Process process_;
  SimReader reader_;
  DirectoryState directory_;
  CoordinatorChoice choice_;
  Connection link_;
  uint64_t calls_ = 0;
  std::unique_ptr<ReadScheduler> scheduler_;
  std::vector<RowAddress> addresses_[kTickets];
  MonotonicTime began_[kTickets];
  MonotonicTime tick_at_ = MonotonicTime::max();
  Figures figures_;
};

}  // namespace engram::sim
