// Copies scattered rows into one buffer, a few rows' memory ahead of the copy: most of a gather's
// time is waiting for memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"

namespace engram {

// Rows whose memory is asked for ahead of the copy.
inline constexpr uint32_t kCopyAheadRows = 16;

// Where a row lies, or why it cannot be had here.
struct FoundRow {
  const std::byte* bytes = nullptr;
  StatusCode status = StatusCode::kOk;
};

// Copies `count` rows to `out` [count][stride]; zeros in the place of a row that was not found.
//   find      RowAddress -> FoundRow
//   load      index -> RowAddress
//   statuses  [count] written
// Returns how many were found.
template <typename Find, typename Load>
uint32_t CopyRows(const Find& find, const Load& load, uint32_t count, uint32_t stride,
                  std::byte* out, StatusCode* statuses) {
  const std::byte* ahead[kCopyAheadRows];
  const auto ask = [&](uint32_t i) {
    const FoundRow row = find(load(i));
    statuses[i] = row.status;
    ahead[i % kCopyAheadRows] = row.bytes;
    if (row.status != StatusCode::kOk) return;
    for (uint32_t line = 0; line < stride; line += 64) __builtin_prefetch(row.bytes + line);
  };
  for (uint32_t i = 0; i < count && i < kCopyAheadRows; ++i) ask(i);
  uint32_t found = 0;
  for (uint32_t i = 0; i < count; ++i, out += stride) {
    const std::byte* const row = ahead[i % kCopyAheadRows];
    if (statuses[i] == StatusCode::kOk) {
      std::memcpy(out, row, stride);
      ++found;
    } else {
      std::memset(out, 0, stride);
    }
    if (i + kCopyAheadRows < count) ask(i + kCopyAheadRows);
  }
  return found;
}

}  // namespace engram
