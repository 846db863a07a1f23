// Where every row of a version is: layers, columns, slots, addresses. Pure arithmetic.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/hash/hash_spec.h"

namespace engram {

// How the values of a row are stored.
enum class RowFormat : uint8_t {
  kF8E4M3ScaleE8M0 = 1,  // v41: row_values E4M3FN bytes, then one UE8M0 scale per 32 values
  kBf16 = 2,
  kF16 = 3,
  kF32 = 4,
};

struct TableSpec {
  HashSpec hash;
  RowFormat row_format = RowFormat::kF8E4M3ScaleE8M0;
  uint32_t row_values = 0;  // values in one row: the width of one column

  friend bool operator==(const TableSpec&, const TableSpec&) = default;
};

inline constexpr uint32_t kRowValuesMax = 4096;
inline constexpr uint32_t kRowCrcBytes = 4;
inline constexpr uint64_t kSlotBytesMax = 8ull << 20;
inline constexpr uint32_t kSlotsPerColumnMin = 64;
inline constexpr uint32_t kSlotCountMax = 1u << 22;  // 32 TiB in slots of 8 MiB

// SHA-256 of the canonical table spec and the compression table (docs/formats/model_identity.md):
// two sides that differ in it would hash differently.
using ModelIdentity = std::array<uint8_t, 32>;

// `compression` [vocabulary]: token id -> compressed id.
[[nodiscard]] ModelIdentity ComputeModelIdentity(const TableSpec& spec,
                                                 std::span<const int32_t> compression);
[[nodiscard]] std::string ModelIdentityHex(const ModelIdentity& identity);

// Bytes of one row's values and scales, without the CRC: 264 for v41.
[[nodiscard]] uint32_t RowBytes(RowFormat format, uint32_t row_values);
[[nodiscard]] std::string_view RowFormatName(RowFormat format);  // "F8_E4M3+F8_E8M0"

// ERRORS: kInvalidArgument naming the field, what was found and what is allowed. F8_E4M3 rows must
// have a multiple of 32 values.
[[nodiscard]] Status ValidateTableSpec(const TableSpec& spec);

// One contiguous run of rows of one column.
struct SlotRange {
  int32_t layer_index = 0;
  int32_t column = 0;
  RowId first_row;         // in its layer's table
  uint32_t row_count = 0;  // slot_rows, or less in the last slot of a column
};

struct RowPlace {
  int32_t layer_index = 0;
  RowId row;
};

// Immutable after Create; thread-safe.
class TableLayout {
 public:
  struct Column {
    uint32_t row_count = 0;   // the prime
    uint64_t row_offset = 0;  // first row id in the layer's table
    uint32_t first_slot = 0;  // slot index over the whole version
    uint32_t slot_count = 0;
  };

  // ERRORS: kInvalidArgument naming the field, or more than kSlotCountMax slots.
  [[nodiscard]] static Result<TableLayout> Create(const TableSpec& spec);

  [[nodiscard]] const TableSpec& spec() const { return spec_; }
  [[nodiscard]] int32_t layer_count() const { return static_cast<int32_t>(columns_.size()); }
  [[nodiscard]] int32_t column_count() const { return spec_.hash.column_count(); }
  [[nodiscard]] const Column& column(int32_t layer_index, int32_t column) const {
    return columns_[static_cast<size_t>(layer_index)][static_cast<size_t>(column)];
  }
  // Rows of one layer's table.
  [[nodiscard]] uint64_t row_count(int32_t layer_index) const;

  [[nodiscard]] uint32_t row_bytes() const { return row_bytes_; }    // values and scales
  [[nodiscard]] uint32_t row_stride() const { return row_stride_; }  // row_bytes + CRC
  // A power of two: the largest with slot_rows * row_stride <= kSlotBytesMax that leaves at least
  // kSlotsPerColumnMin slots in the smallest column; at least 1.
  [[nodiscard]] uint32_t slot_rows() const { return 1u << slot_shift_; }
  [[nodiscard]] uint32_t slot_shift() const { return slot_shift_; }
  [[nodiscard]] uint32_t slot_count() const { return static_cast<uint32_t>(slots_.size()); }
  // Sum of row_stride over all rows of all slots.
  [[nodiscard]] uint64_t total_bytes() const { return total_bytes_; }

  // Precondition: slot < slot_count().
  [[nodiscard]] const SlotRange& slot(SlotIndex slot) const { return slots_[slot.value()]; }
  [[nodiscard]] uint64_t slot_bytes(SlotIndex s) const {
    return uint64_t{slot(s).row_count} * row_stride_;
  }

  // Precondition: bucket < column(layer_index, column).row_count.
  [[nodiscard]] RowAddress Address(int32_t layer_index, int32_t column_index,
                                   uint32_t bucket) const {
    const Column& c = column(layer_index, column_index);
    return RowAddress((uint64_t{c.first_slot} << slot_shift_) + bucket);
  }
  [[nodiscard]] SlotIndex SlotOf(RowAddress address) const {
    return SlotIndex(static_cast<uint32_t>(address.value() >> slot_shift_));
  }
  [[nodiscard]] uint32_t RowInSlot(RowAddress address) const {
    return static_cast<uint32_t>(address.value() & (slot_rows() - 1));
  }
  // False for a number that names no row: a slot or a row in slot out of range.
  [[nodiscard]] bool Contains(RowAddress address) const {
    const uint64_t slot = address.value() >> slot_shift_;
    return slot < slots_.size() && RowInSlot(address) < slots_[slot].row_count;
  }
  // Precondition: Contains(address).
  [[nodiscard]] RowPlace Place(RowAddress address) const {
    const SlotRange& range = slot(SlotOf(address));
    return {range.layer_index, RowId(range.first_row.value() + RowInSlot(address))};
  }
  // ERRORS: kInvalidArgument when layer_index or row is out of range.
  [[nodiscard]] Result<RowAddress> AddressOf(int32_t layer_index, RowId row) const;

 private:
  TableSpec spec_;
  uint32_t row_bytes_ = 0;
  uint32_t row_stride_ = 0;
  uint32_t slot_shift_ = 0;
  uint64_t total_bytes_ = 0;
  std::vector<std::vector<Column>> columns_;  // [layers][columns]
  std::vector<SlotRange> slots_;
};

}  // namespace engram
