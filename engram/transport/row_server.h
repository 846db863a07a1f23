// The memory node's side of a transport: memory that readers may reach, and the threads that answer
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engram/base/status.h"
#include "engram/base/time_buckets.h"
#include "engram/transport/served_slots.h"

namespace engram {

// An epoch or generation that no reader comes to: only the end of its lease frees the memory.
inline constexpr uint64_t kNeverRead = ~uint64_t{0};

// Memory registered with the transport. Owned by the RowServer that made it.
struct Region {
  uint32_t number = 0;
  std::span<std::byte> bytes;
  bool huge_pages = false;
};

// Counters since start; each is monotonic.
struct RowServerStats {
  uint64_t sessions_open = 0;  // a gauge
  uint64_t reads = 0;
  uint64_t rows = 0;
  uint64_t bytes = 0;  // of replies
  uint64_t rows_not_owned = 0;
  uint64_t rows_out_of_range = 0;
  uint64_t refused_messages = 0;  // malformed, oversized, wrong version or incarnation
  uint64_t refused_sessions = 0;
  uint64_t refused_busy = 0;  // reads: no waiting room for them
  uint64_t expired = 0;       // reads: their turn came when they were wanted no more
  uint64_t slow_readers = 0;  // sessions that were ended because they took no replies
  uint64_t rows_waiting = 0;  // a gauge: to be answered
  TimeBuckets gather_times;   // of those reads: from the request here to the reply handed over
};

// Memory that readers could reach by slot places that are published no longer, and what it waits
// for. A value; RowServer makes it and understands it.
struct MemoryRelease {
  TableVersion version;
  Epoch epoch;              // readers that may know those places may be under an older map
  uint64_t generation = 0;  // the first slot directory without those places
  uint64_t sessions = 0;    // that may know an older one: LeaseBook::Require
  uint64_t sweep = 0;       // of the threads that answer
};

// Thread-safe. Starts its threads in its factory, ends them in its destructor.
class RowServer {
 public:
  virtual ~RowServer() = default;

  // Memory for slots, zeroed. Few and large: every region is one key for every reader.
  // ERRORS: kResourceExhausted with the bytes asked for and the system's reason.
  [[nodiscard]] virtual Result<Region> AllocateRegion(uint64_t bytes) = 0;

  // Serves a version from now on; one that is served already is replaced.
  virtual void Serve(std::shared_ptr<const ServedSlots> slots) = 0;
  // Stops serving a version: its sessions end with kWrongVersion.
  virtual void Drop(TableVersion version) = 0;

  // True when no reader may still ask here for rows under a map of `version` older than `epoch`:
  // slots that moved away by then need not be served any more.
  [[nodiscard]] virtual bool AllAcknowledged(TableVersion version, Epoch epoch) = 0;
  // Call after places were withdrawn or replaced (`generation`: of the ServedSlots since), or after
  // Drop (kNeverRead for both). From now on readers that may know those places get leases only once
  // they acknowledged `epoch` and have a slot directory of `generation`.
  [[nodiscard]] virtual MemoryRelease StartRelease(TableVersion version, Epoch epoch,
                                                   uint64_t generation) = 0;
  // True when nothing can read from those places any more, neither this server's threads nor a
  // reader by itself: their memory may be reused. Ask again until it is.
  [[nodiscard]] virtual bool MayReuse(const MemoryRelease& release) = 0;

  // "host:port" that readers connect to (the port is real even if 0 was asked for).
  [[nodiscard]] virtual std::string address() const = 0;
  [[nodiscard]] virtual RowServerStats stats() const = 0;
};

}  // namespace engram
