#include "shard_server/slot_arena.h"

#include <algorithm>
#include <string>

#include "engram/base/check.h"
#include "shard_server/byte_text.h"

namespace engram {
namespace {

constexpr uint64_t kPageBytes = 4096;
// A later, small growth takes at least this part of what is held, so that a node that gains one
// slot at a time ends with tens of regions, not thousands. 1/64 keeps memory under 1.05 x the row
// bytes.
constexpr uint64_t kGrowthDivisor = 64;

uint64_t RoundUp(uint64_t bytes, uint64_t to) { return (bytes + to - 1) / to * to; }

}  // namespace

size_t SlotArena::huge_region_count() const {
  return static_cast<size_t>(std::count_if(
      regions_.begin(), regions_.end(), [](const auto& entry) { return entry.second.huge_pages; }));
}

Result<std::vector<ArenaPiece>> SlotArena::Take(std::span<const uint64_t> sizes) {
  std::vector<ArenaPiece> pieces(sizes.size());
  std::vector<uint64_t> unplaced_sizes;
  std::vector<size_t> unplaced;
  for (size_t i = 0; i < sizes.size(); ++i) {
    ENGRAM_CHECK(sizes[i] > 0);
    if (!TakeFree(sizes[i], &pieces[i])) {
      unplaced.push_back(i);
      unplaced_sizes.push_back(sizes[i]);
    }
  }
  if (unplaced.empty()) return pieces;
  Status grown = Grow(unplaced_sizes);
  if (!grown.ok()) {
    for (const ArenaPiece& piece : pieces) {
      if (piece.data != nullptr) GiveBack(piece);
    }
    return Error(std::move(grown));
  }
  for (const size_t i : unplaced) ENGRAM_CHECK(TakeFree(sizes[i], &pieces[i]));
  return pieces;
}

bool SlotArena::TakeFree(uint64_t bytes, ArenaPiece* piece) {
  const uint64_t taken = RoundUp(bytes, kPieceAlignBytes);
  if (taken > free_bytes_) return false;
  for (auto extent = extents_.begin(); extent != extents_.end(); ++extent) {
    if (extent->second < taken) continue;
    const auto [region, offset] = extent->first;
    const uint64_t left = extent->second - taken;
    extents_.erase(extent);
    if (left > 0) extents_.emplace(ExtentKey{region, offset + taken}, left);
    free_bytes_ -= taken;
    piece->data = regions_.at(region).bytes.data() + offset;
    piece->bytes = bytes;
    piece->place = {region, offset};
    return true;
  }
  return false;
}

void SlotArena::GiveBack(const ArenaPiece& piece) {
  InsertExtent(piece.place.region, piece.place.offset, RoundUp(piece.bytes, kPieceAlignBytes));
}

void SlotArena::InsertExtent(uint32_t region, uint64_t offset, uint64_t bytes) {
  free_bytes_ += bytes;
  auto next = extents_.lower_bound(ExtentKey{region, offset});
  if (next != extents_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first.first == region && previous->first.second + previous->second == offset) {
      offset = previous->first.second;
      bytes += previous->second;
      extents_.erase(previous);
    }
  }
  if (next != extents_.end() && next->first.first == region &&
      offset + bytes == next->first.second) {
    bytes += next->second;
    extents_.erase(next);
  }
  extents_.emplace(ExtentKey{region, offset}, bytes);
}

Status SlotArena::Grow(std::span<const uint64_t> sizes) {
  // Where the regions are cut: pieces in order, a new region when the next would pass the bound.
  std::vector<uint64_t> wanted{0};
  for (const uint64_t size : sizes) {
    const uint64_t taken = RoundUp(size, kPieceAlignBytes);
    if (wanted.back() > 0 && wanted.back() + taken > options_.region_bytes_max) wanted.push_back(0);
    wanted.back() += taken;
  }
  uint64_t total = 0;
  for (uint64_t& bytes : wanted) {
    bytes = RoundUp(bytes, kPageBytes);
    total += bytes;
  }
  const uint64_t limit = options_.memory_bytes_max;
  if (total > limit || region_bytes_ > limit - total) {
    return {StatusCode::kResourceExhausted,
            ByteText(total) + " more memory is needed, but the limit (--memory) is " +
                ByteText(limit) + " and " + ByteText(region_bytes_) + " are allocated (" +
                ByteText(free_bytes_) + " of them free): raise --memory, or add memory nodes"};
  }
  const uint64_t growth_bytes = RoundUp(region_bytes_ / kGrowthDivisor, kPageBytes);
  if (wanted.back() < growth_bytes &&
      region_bytes_ + total - wanted.back() + growth_bytes <= limit) {
    wanted.back() = growth_bytes;
  }
  for (const uint64_t bytes : wanted) {
    auto region = server_->AllocateRegion(bytes);
    if (!region.has_value()) return region.error();
    ENGRAM_CHECK(region->bytes.size() >= bytes);
    // Whole alignment units only, so that every extent can be handed out to its end.
    const uint64_t usable = region->bytes.size() / kPieceAlignBytes * kPieceAlignBytes;
    region_bytes_ += region->bytes.size();
    regions_.emplace(region->number, *region);
    InsertExtent(region->number, 0, usable);
  }
  return {};
}

}  // namespace engram
