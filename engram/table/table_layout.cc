#include "engram/table/table_layout.h"

#include <algorithm>
#include <bit>
#include <string>
#include <utility>

#include "engram/base/check.h"

namespace engram {
namespace {

// Values that share one UE8M0 scale.
constexpr uint32_t kValuesPerScale = 32;

std::string Between(std::string_view field, uint64_t found, uint64_t low, uint64_t high) {
  return std::string(field) + " = " + std::to_string(found) + ", expected " + std::to_string(low) +
         ".." + std::to_string(high);
}

uint64_t CeilDivide(uint64_t value, uint64_t by) { return (value + by - 1) / by; }

// The rule of slot_rows() as a shift. `smallest_column` >= 1.
uint32_t SlotShift(uint32_t row_stride, uint32_t smallest_column) {
  uint32_t shift = 0;
  while (shift < 31) {
    const uint64_t rows = uint64_t{1} << (shift + 1);
    if (rows * row_stride > kSlotBytesMax) break;
    if (CeilDivide(smallest_column, rows) < kSlotsPerColumnMin) break;
    ++shift;
  }
  return shift;
}

}  // namespace

uint32_t RowBytes(RowFormat format, uint32_t row_values) {
  switch (format) {
    case RowFormat::kF8E4M3ScaleE8M0:
      return row_values + row_values / kValuesPerScale;
    case RowFormat::kBf16:
    case RowFormat::kF16:
      return row_values * 2;
    case RowFormat::kF32:
      return row_values * 4;
  }
  ENGRAM_CHECK(false && "RowBytes: not a RowFormat; ValidateTableSpec first");
  return 0;
}

std::string_view RowFormatName(RowFormat format) {
  switch (format) {
    case RowFormat::kF8E4M3ScaleE8M0:
      return "F8_E4M3+F8_E8M0";
    case RowFormat::kBf16:
      return "BF16";
    case RowFormat::kF16:
      return "F16";
    case RowFormat::kF32:
      return "F32";
  }
  return "unknown";
}

Status ValidateTableSpec(const TableSpec& spec) {
  ENGRAM_RETURN_IF_ERROR(ValidateHashSpec(spec.hash));
  const auto format = static_cast<uint32_t>(spec.row_format);
  if (format < 1 || format > 4) {
    return Status(StatusCode::kInvalidArgument, Between("row_format", format, 1, 4));
  }
  if (spec.row_values < 1 || spec.row_values > kRowValuesMax) {
    return Status(StatusCode::kInvalidArgument,
                  Between("row_values", spec.row_values, 1, kRowValuesMax));
  }
  if (spec.row_format == RowFormat::kF8E4M3ScaleE8M0 && spec.row_values % kValuesPerScale != 0) {
    return Status(StatusCode::kInvalidArgument,
                  "row_values = " + std::to_string(spec.row_values) +
                      ", expected a multiple of 32: F8_E4M3 rows have one scale per 32 values");
  }
  return Status();
}

Result<TableLayout> TableLayout::Create(const TableSpec& spec) {
  ENGRAM_TRY(ValidateTableSpec(spec));
  ENGRAM_ASSIGN_OR_RETURN(const auto sizes, ColumnSizes(spec.hash));

  TableLayout layout;
  layout.spec_ = spec;
  layout.row_bytes_ = RowBytes(spec.row_format, spec.row_values);
  layout.row_stride_ = layout.row_bytes_ + kRowCrcBytes;

  uint32_t smallest = 0xffffffffu;
  for (const auto& layer : sizes) {
    smallest = std::min(smallest, *std::min_element(layer.begin(), layer.end()));
  }
  layout.slot_shift_ = SlotShift(layout.row_stride_, smallest);
  const uint64_t slot_rows = layout.slot_rows();

  uint64_t slot_count = 0;
  for (const auto& layer : sizes) {
    for (const uint32_t rows : layer) slot_count += CeilDivide(rows, slot_rows);
  }
  if (slot_count > kSlotCountMax) {
    return Error(StatusCode::kInvalidArgument,
                 "the tables need " + std::to_string(slot_count) + " slots of " +
                     std::to_string(slot_rows) + " rows, at most " + std::to_string(kSlotCountMax) +
                     " are allowed: fewer columns or smaller base sizes");
  }

  layout.slots_.reserve(slot_count);
  for (size_t l = 0; l < sizes.size(); ++l) {
    auto& columns = layout.columns_.emplace_back();
    uint64_t row_offset = 0;
    for (size_t c = 0; c < sizes[l].size(); ++c) {
      Column column;
      column.row_count = sizes[l][c];
      column.row_offset = row_offset;
      column.first_slot = static_cast<uint32_t>(layout.slots_.size());
      column.slot_count = static_cast<uint32_t>(CeilDivide(column.row_count, slot_rows));
      columns.push_back(column);
      for (uint64_t first = 0; first < column.row_count; first += slot_rows) {
        const uint64_t rows = std::min<uint64_t>(slot_rows, column.row_count - first);
        layout.slots_.push_back({static_cast<int32_t>(l), static_cast<int32_t>(c),
                                 RowId(row_offset + first), static_cast<uint32_t>(rows)});
      }
      row_offset += column.row_count;
      layout.total_bytes_ += uint64_t{column.row_count} * layout.row_stride_;
    }
  }
  return layout;
}

uint64_t TableLayout::row_count(int32_t layer_index) const {
  const Column& last = columns_[static_cast<size_t>(layer_index)].back();
  return last.row_offset + last.row_count;
}

Result<RowAddress> TableLayout::AddressOf(int32_t layer_index, RowId row) const {
  if (layer_index < 0 || layer_index >= layer_count()) {
    return Error(StatusCode::kInvalidArgument, "layer_index = " + std::to_string(layer_index) +
                                                   ", expected 0.." +
                                                   std::to_string(layer_count() - 1));
  }
  const auto& columns = columns_[static_cast<size_t>(layer_index)];
  if (row.value() >= row_count(layer_index)) {
    return Error(StatusCode::kInvalidArgument,
                 "row " + std::to_string(row.value()) + " of layer " +
                     std::to_string(spec_.hash.layer_ids[static_cast<size_t>(layer_index)]) +
                     ", expected 0.." + std::to_string(row_count(layer_index) - 1));
  }
  const auto after =
      std::upper_bound(columns.begin(), columns.end(), row.value(),
                       [](uint64_t id, const Column& column) { return id < column.row_offset; });
  const auto column = static_cast<int32_t>(after - columns.begin()) - 1;
  const uint64_t bucket = row.value() - columns[static_cast<size_t>(column)].row_offset;
  return Address(layer_index, column, static_cast<uint32_t>(bucket));
}

}  // namespace engram
