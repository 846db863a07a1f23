// What a memory node holds and does, as its other threads and the coordinator are told.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "shard_server/slot_store.h"

namespace engram {

// One version, as others are told of it. Immutable.
struct HeldVersion {
  TableVersion version;
  uint64_t revision = 0;  // of the assignment that this answers
  uint64_t change = 0;    // grows whenever anything else here changed
  Epoch newest_epoch;     // of the version's shard map, as readers are told; changes alone
  uint64_t slots_assigned = 0;
  uint64_t bytes_total = 0;  // stored bytes of the assigned slots
  uint64_t bytes_ready = 0;
  uint64_t slots_unplaced = 0;  // wait for memory that slots which moved away still have
  std::shared_ptr<const std::vector<AssignedSlot>> ready;  // ascending, with digests; never null
  uint64_t slots_damaged = 0;  // of the ready ones: found to have damaged rows, not yet replaced
  std::vector<SlotIndex> damaged;  // those of them that no assignment has named yet, ascending
  // Why slots are missing, or damaged ones are not replaced; stays until a later try succeeds.
  Status error;
  [[nodiscard]] bool complete() const { return error.ok() && ready->size() == slots_assigned; }
};

struct NodeSnapshot {
  std::vector<HeldVersion> versions;  // ascending
  SlotStoreFigures memory;
  bool loading = false;               // from a checkpoint or another node
  bool loading_paused = false;        // by the test hook
  uint64_t loads_failed = 0;          // since start
  uint64_t copy_bytes_per_s = 0;      // at which slots arrive from other nodes; 0 = none do
  uint64_t copy_bytes_per_s_max = 0;  // 0 = no bound
  uint64_t bytes_copied = 0;          // from other nodes since start, complete slots or not
  uint64_t slots_copied = 0;          // since start
  uint64_t slots_not_copied = 0;      // since start: the source failed
  // Of scrub and repair, since start.
  uint64_t corrupt_rows_found = 0;   // by scrub, or on a reader's report
  uint64_t rows_repaired = 0;        // of those: their slot was replaced
  uint64_t reports_unconfirmed = 0;  // a reader's, of slots whose rows are whole
  uint64_t bytes_scrubbed = 0;
  uint64_t scrub_passes = 0;           // over every ready slot
  Duration scrub_last_pass{0};         // what the last of them took
  uint64_t scrub_bytes_per_s_max = 0;  // 0 = no scrub
};

}  // namespace engram
