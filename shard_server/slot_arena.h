// Memory for slots: few, large regions of a RowServer, handed out in pieces.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "engram/base/status.h"
#include "engram/transport/row_server.h"

namespace engram {

// Every piece starts at a multiple of this: a cache line.
inline constexpr uint64_t kPieceAlignBytes = 64;

// One slot's memory. A value: it owns nothing.
struct ArenaPiece {
  std::byte* data = nullptr;
  uint64_t bytes = 0;  // as asked for; the place taken is rounded up to kPieceAlignBytes
  SlotPlace place;
};

// Regions live as long as the RowServer; a piece given back is handed out again, its region is
// never returned to the system. Thread-compatible: the slot store's thread drives it.
//
// Invariant: free extents of one region never overlap or touch, and lie in their region.
class SlotArena {
 public:
  struct Options {
    uint64_t memory_bytes_max = 0;            // all regions together
    uint64_t region_bytes_max = 16ull << 30;  // every region is one key for every reader
  };
  SlotArena(RowServer* server, const Options& options) : server_(server), options_(options) {}

  // A piece for each of `sizes` (each > 0), in their order: from free memory first, then from new
  // regions. All or nothing, and the limit is checked before anything is allocated.
  // ERRORS: kResourceExhausted with the figures (over memory_bytes_max, or the system refused).
  [[nodiscard]] Result<std::vector<ArenaPiece>> Take(std::span<const uint64_t> sizes);

  // `piece` came from Take and no reader can reach it any more.
  void GiveBack(const ArenaPiece& piece);

  [[nodiscard]] uint64_t memory_bytes_max() const { return options_.memory_bytes_max; }
  [[nodiscard]] uint64_t region_bytes() const { return region_bytes_; }
  [[nodiscard]] uint64_t free_bytes() const { return free_bytes_; }
  [[nodiscard]] size_t region_count() const { return regions_.size(); }
  [[nodiscard]] size_t huge_region_count() const;

 private:
  using ExtentKey = std::pair<uint32_t, uint64_t>;  // region number, offset

  [[nodiscard]] bool TakeFree(uint64_t bytes, ArenaPiece* piece);
  void InsertExtent(uint32_t region, uint64_t offset, uint64_t bytes);
  // Regions that give `bytes` of free memory more, no piece of `sizes` split over two.
  [[nodiscard]] Status Grow(std::span<const uint64_t> sizes);

  RowServer* server_;
  Options options_;
  std::map<uint32_t, Region> regions_;     // by number
  std::map<ExtentKey, uint64_t> extents_;  // free memory: place -> bytes
  uint64_t region_bytes_ = 0;
  uint64_t free_bytes_ = 0;
};

}  // namespace engram
