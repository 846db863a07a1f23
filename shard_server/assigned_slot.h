// A slot as a memory node is given it: to hold, and to fill.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engram/base/strong_id.h"

namespace engram {

// XXH3-64 (seed 0) over a slot's stored rows as they lie in memory: row_count x row_stride bytes,
// in row order, every row's values, scales and CRC. So it binds the bytes, their order, and
// (through the CRCs) version, layer and row ids. Never 0: a hash of 0 becomes 1, because 0 means
// "not recorded yet" (docs/formats/slot_digest.md).
using SlotDigest = uint64_t;

struct AssignedSlot {
  SlotIndex slot;
  SlotDigest digest = 0;  // recorded by the coordinator; 0 = the first load records it
  friend bool operator==(const AssignedSlot&, const AssignedSlot&) = default;
};

// A slot that has memory and waits for its rows, or a ready one whose replacement does.
struct EmptySlot {
  SlotIndex slot;
  std::byte* rows = nullptr;  // [row_count][row_stride]
  SlotDigest digest = 0;      // wanted; 0 = any
};

}  // namespace engram
