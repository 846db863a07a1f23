// A memory node's row server: its memory, its sessions' leases, and the rules of the data path,
// over the simulated network. The lease book is the production one.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "engram/table/table_layout.h"
#include "engram/transport/lease.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/row_server.h"
#include "tests/sim/planted_bug.h"
#include "tests/sim/world.h"

namespace engram::sim {

// A region of a node's memory. Readers that mapped it keep it, also when its node is dead.
using RegionMemory = std::shared_ptr<std::vector<std::byte>>;

// The slots that a node serves, and where they lie, as a reader that maps was told.
struct SlotDirectory {
  struct Place {
    SlotIndex slot;
    RegionMemory memory;
    const std::byte* rows = nullptr;
  };
  uint64_t generation = 0;
  std::vector<Place> places;  // ascending
};

class SimRowServer final : public RowServer {
 public:
  static constexpr auto kLease = std::chrono::milliseconds(500);

  SimRowServer(World* world, Incarnation incarnation, PlantedBug bug)
      : world_(world), incarnation_(incarnation), bug_(bug) {}

  // -- RowServer
  Result<Region> AllocateRegion(uint64_t bytes) override;
  void Serve(std::shared_ptr<const ServedSlots> slots) override;
  void Drop(TableVersion version) override { served_.erase(version); }
  bool AllAcknowledged(TableVersion version, Epoch epoch) override {
    return leases_.AllAcknowledged(version, epoch, world_->Now());
  }
  MemoryRelease StartRelease(TableVersion version, Epoch epoch, uint64_t generation) override;
  bool MayReuse(const MemoryRelease& release) override;
  std::string address() const override { return {}; }
  RowServerStats stats() const override { return {}; }

  // -- what readers ask
  struct Opened {
    Status status;
    uint64_t session = 0;
    Incarnation incarnation;
    SlotDirectory directory;
  };
  [[nodiscard]] Opened OpenSession(const NodeTarget& target, bool wants_directory);
  void CloseSession(uint64_t session) { leases_.Close(session); }
  struct LeaseRequest {
    uint64_t session = 0;
    TableVersion version;
    uint64_t sequence = 0;
    ReaderProgress progress;
  };
  struct Grant {
    StatusCode status = StatusCode::kOk;
    uint64_t sequence = 0;
    std::chrono::milliseconds lease{0};
    Epoch newest_epoch;
    uint64_t generation = 0;
  };
  [[nodiscard]] Grant RenewLease(const LeaseRequest& request);
  [[nodiscard]] std::optional<SlotDirectory> Directory(TableVersion version) const;
  struct Gathered {
    StatusCode status = StatusCode::kOk;
    Epoch newest_epoch;
    std::vector<std::byte> rows;       // [rows][row_stride]
    std::vector<StatusCode> statuses;  // [rows]
  };
  [[nodiscard]] Gathered Gather(TableVersion version, std::span<const RowAddress> rows) const;
  // A whole slot for another node's copy; empty: not served here.
  [[nodiscard]] std::vector<std::byte> CopySlot(TableVersion version, SlotIndex slot) const;

 private:
  World* world_;
  const Incarnation incarnation_;
  const PlantedBug bug_;
  LeaseBook leases_;
  std::map<TableVersion, std::shared_ptr<const ServedSlots>> served_;
  std::vector<RegionMemory> regions_;
  uint64_t sessions_ = 0;
};

}  // namespace engram::sim
