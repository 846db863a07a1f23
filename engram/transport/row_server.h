// The memory node's side of a transport: memory that readers may reach, and the threads that answer
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "engram/base/status.h"
#include "engram/transport/served_slots.h"

namespace engram {

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
  uint64_t rows_not_owned = 0;
  uint64_t rows_out_of_range = 0;
  uint64_t refused_messages = 0;  // malformed, oversized, wrong version or incarnation
  uint64_t refused_sessions = 0;
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

  // "host:port" that readers connect to (the port is real even if 0 was asked for).
  [[nodiscard]] virtual std::string address() const = 0;
  [[nodiscard]] virtual RowServerStats stats() const = 0;
};

}  // namespace engram
