// A memory node with made-up rows in a process of its own, which benchmarks read.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <sys/types.h>

#include "bench/bare_rows.h"
#include "bench/host_network.h"
#include "bench/made_up_rows.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

inline constexpr TableVersion kBenchVersion{1};
inline constexpr ModelIdentity kBenchIdentity{0xbe};

// Where row `address` of `layout` lies in a node's memory, and in the copy of it. A node holds
// every `parts`-th slot, from slot `part` on; rows of the others have no place.
class RowPlaces {
 public:
  explicit RowPlaces(const TableLayout& layout, uint32_t part = 0, uint32_t parts = 1);
  [[nodiscard]] uint64_t OffsetOf(RowAddress address) const {
    return slots_[address.value() >> shift_] + (address.value() & mask_) * stride_;
  }
  // Of all rows that have a place.
  [[nodiscard]] uint64_t total_bytes() const { return total_bytes_; }

 private:
  uint32_t shift_;
  uint64_t mask_;
  uint32_t stride_;
  std::vector<uint64_t> slots_;  // [slots] offset of the first row
  uint64_t total_bytes_ = 0;
};

// What a client must know of a ReadNode, which another process may have started.
struct NodeContact {
  std::string address;
  pid_t pid = 0;

  [[nodiscard]] Incarnation incarnation() const { return Incarnation(static_cast<uint64_t>(pid)); }
  // CPU time so far, in seconds; 0 if it has ended.
  [[nodiscard]] double CpuSeconds() const;
  // Resident, rows in huge pages included; 0 if it has ended.
  [[nodiscard]] uint64_t MemoryBytes() const;
};

// Keeps the calling thread, and those it starts from now on, off processor 0 (`node` false), or on
// it (true). Nothing where there is only one.
void ShareProcessors(bool node);

// Ended and reaped with it. Create before the process has threads.
class ReadNode {
 public:
  struct Options {
    std::string transport = "tcp";  // UcxRowServerOptions::tls
    std::string one_sided = "off";
    uint32_t gather_threads = 1;
    bool fair_reads = true;  // UcxRowServerOptions
    bool pinned = false;     // to processor 0: ShareProcessors(true)
    // Holds every `parts`-th slot, from slot `part` on.
    uint32_t part = 0;
    uint32_t parts = 1;
    // The host it is on, of a network that outlives Start; null: this process's.
    const HostNetwork* network = nullptr;
    uint32_t host = 0;
    // Also answers BareGather, from the same memory.
    bool bare_server = false;
    // Gets a copy of the rows, in the same places; may be null. Outlives Start.
    const SharedMemory* copy = nullptr;
  };
  // Forks; the child fills a node with the layout's rows and serves them until this object goes.
  // ERRORS: kIo, kUnavailable with the child's reason.
  [[nodiscard]] static Result<std::unique_ptr<ReadNode>> Start(
      const Options& options, const std::shared_ptr<const TableLayout>& layout);
  ~ReadNode();
  ReadNode(const ReadNode&) = delete;
  ReadNode& operator=(const ReadNode&) = delete;

  [[nodiscard]] NodeContact contact() const { return {address_, child_}; }
  // Of its BareServer.
  [[nodiscard]] const std::string& bare_address() const { return bare_address_; }
  // Whether its rows lie in pages above 4 KiB.
  [[nodiscard]] bool huge_pages() const { return huge_pages_; }
  // Memory that it took for its rows, in bytes.
  [[nodiscard]] uint64_t row_memory_bytes() const { return row_memory_bytes_; }

 private:
  ReadNode(pid_t child, int channel) : child_(child), channel_(channel) {}
  pid_t child_;
  int channel_;  // owned; the child ends when it closes
  std::string address_;
  std::string bare_address_;
  bool huge_pages_ = false;
  uint64_t row_memory_bytes_ = 0;
};

}  // namespace engram::bench
