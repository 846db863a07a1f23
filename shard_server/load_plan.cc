#include "shard_server/load_plan.h"

#include <algorithm>

namespace engram {

RowParts RowPartsOf(const TableSpec& spec) {
  const uint32_t row_bytes = RowBytes(spec.row_format, spec.row_values);
  if (spec.row_format != RowFormat::kF8E4M3ScaleE8M0) return {row_bytes, 0};
  return {spec.row_values, row_bytes - spec.row_values};
}

std::vector<LoadChunk> PlanLoad(const TableLayout& layout, std::span<const SlotIndex> slots,
                                uint64_t buffer_bytes) {
  const RowParts row = RowPartsOf(layout.spec());
  const uint64_t rows_max = std::max<uint64_t>(1, buffer_bytes / layout.row_bytes());
  std::vector<LoadChunk> chunks;
  for (uint32_t position = 0; position < slots.size(); ++position) {
    const SlotRange& slot = layout.slot(slots[position]);
    for (uint32_t done = 0; done < slot.row_count;) {
      if (chunks.empty() || chunks.back().row_count == rows_max) chunks.emplace_back();
      LoadChunk& chunk = chunks.back();
      const auto count = static_cast<uint32_t>(
          std::min<uint64_t>(slot.row_count - done, rows_max - chunk.row_count));
      const uint64_t first_row = slot.first_row.value() + done;
      const bool follows =
          !chunk.ranges.empty() && chunk.ranges.back().layer_index == slot.layer_index &&
          chunk.ranges.back().first_row.value() + chunk.ranges.back().row_count == first_row;
      if (!follows) chunk.ranges.push_back({slot.layer_index, RowId(first_row), 0, 0, 0});
      LoadRange& range = chunk.ranges.back();
      chunk.parts.push_back(
          {position, done, static_cast<uint32_t>(chunk.ranges.size() - 1), range.row_count, count});
      range.row_count += count;
      chunk.row_count += count;
      done += count;
    }
  }
  for (LoadChunk& chunk : chunks) {
    uint64_t offset = 0;
    for (LoadRange& range : chunk.ranges) {
      range.weight_offset = offset;
      range.scale_offset = offset + uint64_t{range.row_count} * row.weight_bytes;
      offset = range.scale_offset + uint64_t{range.row_count} * row.scale_bytes;
    }
  }
  return chunks;
}

}  // namespace engram
