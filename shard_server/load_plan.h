// In what order the rows of a set of slots are read, and through which part of a bounded buffer.
// Pure arithmetic.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/strong_id.h"
#include "engram/table/table_layout.h"

namespace engram {

// How one row lies in a checkpoint: its values in one tensor, its scales, if any, in another.
struct RowParts {
  uint32_t weight_bytes = 0;
  uint32_t scale_bytes = 0;  // 0: no second tensor
};
[[nodiscard]] RowParts RowPartsOf(const TableSpec& spec);

// Rows that follow each other in a layer's table: one read of each of its tensors.
struct LoadRange {
  int32_t layer_index = 0;
  RowId first_row;
  uint32_t row_count = 0;
  uint64_t weight_offset = 0;  // of the first row's values, from the buffer's start
  uint64_t scale_offset = 0;
};

// Rows of one range that belong to one slot.
struct LoadPart {
  uint32_t slot_position = 0;  // in the list given to PlanLoad
  uint32_t row_in_slot = 0;
  uint32_t range = 0;  // in LoadChunk::ranges
  uint32_t row_in_range = 0;
  uint32_t row_count = 0;
};

// What passes through one buffer at once. A slot's parts come in row order, over one or more
// chunks, and no other slot's part comes between them.
struct LoadChunk {
  std::vector<LoadRange> ranges;
  std::vector<LoadPart> parts;
  uint64_t row_count = 0;
};

// `slots` ascending: they are read in table order, which is the order of the files; slots that
// follow each other are read as one range. Every chunk fits in `buffer_bytes` (at least one row).
[[nodiscard]] std::vector<LoadChunk> PlanLoad(const TableLayout& layout,
                                              std::span<const SlotIndex> slots,
                                              uint64_t buffer_bytes);

}  // namespace engram
