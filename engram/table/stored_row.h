// A row in a memory node: its bytes and a CRC-32C that binds them to their place
// (docs/formats/stored_row.md).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engram/base/strong_id.h"

namespace engram {

// CRC-32C over little-endian {u64 version, u32 layer id, u64 row id} and the `row_bytes` bytes of
// the row. `layer_id` is the config's own number. Thread-safe.
[[nodiscard]] uint32_t RowCrc(TableVersion version, int32_t layer_id, RowId row,
                              const std::byte* bytes, uint32_t row_bytes);

// CRC-32C of what RowCrc covers before the row's bytes, for who goes on from there.
[[nodiscard]] uint32_t RowPlaceCrc(TableVersion version, int32_t layer_id, RowId row);

// Writes RowCrc after the row's bytes: `stored` is [row_bytes + kRowCrcBytes], little-endian.
void SealRow(TableVersion version, int32_t layer_id, RowId row, std::byte* stored,
             uint32_t row_bytes);

// True if `stored` [row_bytes + kRowCrcBytes] is the row that its place says it is.
[[nodiscard]] bool VerifyRow(TableVersion version, int32_t layer_id, RowId row,
                             const std::byte* stored, uint32_t row_bytes);

// A stored row and the place that it should be of.
struct PlacedRow {
  int32_t layer_id = 0;
  RowId row;
  const std::byte* stored = nullptr;  // [row_bytes + kRowCrcBytes]
};

// right[i] = 1 if VerifyRow holds for rows[i], else 0. Several rows at once: the steps of one CRC
// wait for each other, those of four do not.
void VerifyRows(TableVersion version, std::span<const PlacedRow> rows, uint32_t row_bytes,
                uint8_t* right);

}  // namespace engram
