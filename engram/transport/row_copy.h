// Copies scattered rows into one buffer, a few rows' memory ahead of the copy: most of a gather's
// time is waiting for memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"

namespace engram {

// Rows whose memory CopyRows asks for ahead of the copy.
inline constexpr uint32_t kCopyAheadRows = 16;

// Where a row lies, or why it cannot be had here.
struct FoundRow {
  const std::byte* bytes = nullptr;
  StatusCode status = StatusCode::kOk;
};

// Finds rows [0, count) in their order and asks for the memory of `kAhead` ahead of their use.
//   find  RowAddress -> FoundRow
//   load  index -> RowAddress
// Both must outlive it. Rows are taken in their order, at most as many as were asked for. One
// thread.
template <uint32_t kAhead, typename Find, typename Load>
class RowsAhead {
 public:
  RowsAhead(const Find& find, const Load& load, uint32_t count, uint32_t stride)
      : find_(find), load_(load), count_(count), stride_(stride) {
    Ask(kAhead);
  }
  // The next row. Precondition: it was asked for.
  [[nodiscard]] FoundRow Take() { return rows_[taken_++ % kAhead]; }
  // For as many more, at most as were taken since.
  void Ask(uint32_t rows) {
    const uint32_t end = std::min(count_, asked_ + rows);
    for (; asked_ < end; ++asked_) {
      const FoundRow row = find_(load_(asked_));
      rows_[asked_ % kAhead] = row;
      if (row.status != StatusCode::kOk) continue;
      for (uint32_t line = 0; line < stride_; line += 64) __builtin_prefetch(row.bytes + line);
    }
  }

 private:
  const Find& find_;
  const Load& load_;
  const uint32_t count_;
  const uint32_t stride_;
  uint32_t asked_ = 0;
  uint32_t taken_ = 0;
  FoundRow rows_[kAhead];
};

// Copies `count` rows to `out` [count][stride]; zeros in the place of a row that was not found.
//   statuses  [count] written
// Returns how many were found.
template <typename Find, typename Load>
uint32_t CopyRows(const Find& find, const Load& load, uint32_t count, uint32_t stride,
                  std::byte* out, StatusCode* statuses) {
  RowsAhead<kCopyAheadRows, Find, Load> ahead(find, load, count, stride);
  uint32_t found = 0;
  for (uint32_t i = 0; i < count; ++i, out += stride) {
    const FoundRow row = ahead.Take();
    statuses[i] = row.status;
    if (row.status == StatusCode::kOk) {
      std::memcpy(out, row.bytes, stride);
      ++found;
    } else {
      std::memset(out, 0, stride);
    }
    ahead.Ask(1);
  }
  return found;
}

}  // namespace engram
