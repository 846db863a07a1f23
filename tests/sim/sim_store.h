// The shared metadata store as coordinators see it: it elects a leader by a lease, and takes writes
// of the newest term only. It stands for etcd, and is up always; the network to it is not.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/metadata_store.h"
#include "engram/base/status.h"
#include "tests/sim/planted_bug.h"
#include "tests/sim/world.h"

namespace engram::sim {

class SimStore {
 public:
  static constexpr Duration kLease = std::chrono::milliseconds(800);

  SimStore(World* world, PlantedBug bug) : bug_(bug), world_(world), process_(world, "store") {
    process_.Start();
  }
  [[nodiscard]] Process* process() { return &process_; }

  // -- on the store's process
  struct Election {
    uint64_t term = 0;  // 0 = another leads
    std::string leader;
  };
  // `term`: of the candidate, to keep it; 0 = it has none.
  [[nodiscard]] Election Campaign(const std::string& candidate, uint64_t term);
  void Resign(uint64_t term);
  // ERRORS: kFailedPrecondition (the term is over; nothing was written).
  [[nodiscard]] Status Commit(uint64_t term, const std::vector<MetadataRecord>& records);
  struct Contents {
    uint64_t revision = 0;
    std::string leader;
    std::shared_ptr<const std::vector<MetadataRecord>> records;
  };
  [[nodiscard]] Contents Read();

  [[nodiscard]] uint64_t terms() const { return term_; }

 private:
  const PlantedBug bug_;
  World* world_;
  Process process_;
  uint64_t term_ = 0;  // the newest given
  std::string leader_;
  MonotonicTime lease_end_;
  uint64_t revision_ = 0;
  std::map<std::string, std::string> records_;
  std::shared_ptr<const std::vector<MetadataRecord>> contents_;  // of this revision, once asked for
};

}  // namespace engram::sim
