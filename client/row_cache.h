// Hot rows kept in this process, in a fixed amount of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "engram/base/strong_id.h"

namespace engram {

// Verified rows of one table version by address. Eight-way sets; a set evicts by CLOCK (a row that
// was found since the hand last passed stays). While a set is full a row is admitted only at its
// second sighting, so that the many n-grams of one occurrence neither cost a copy nor push out hot
// rows. One owner thread. All memory is taken at construction.
class RowCache {
 public:
  // At most `bytes_max` bytes for rows and bookkeeping together; too few for one set: always empty.
  RowCache(size_t bytes_max, uint32_t row_bytes);
  ~RowCache();
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;

  // Empties the cache; rows of `version` from now on.
  void Reset(TableVersion version);
  [[nodiscard]] TableVersion version() const { return version_; }

  // [row_bytes], valid until the next Insert or Reset; null when it is not here.
  [[nodiscard]] const std::byte* Find(RowAddress row);
  // `bytes` [row_bytes], verified, are copied if the row is admitted. Precondition: Find gave null.
  void Insert(RowAddress row, const std::byte* bytes);
  // Brings the memory that Find(row) will look at closer.
  void Prefetch(RowAddress row) const {
    if (set_count_ != 0) __builtin_prefetch(keys_.get() + size_t{SetOf(row)} * kWays);
  }

  [[nodiscard]] size_t rows_max() const { return size_t{set_count_} * kWays; }
  [[nodiscard]] size_t rows() const { return row_count_; }
  [[nodiscard]] size_t bytes_used() const;

 private:
  static constexpr uint32_t kWays = 8;
  static constexpr uint64_t kEmpty = ~uint64_t{0};
  static constexpr uint32_t kSightingsPerRow = 2;

  [[nodiscard]] static uint64_t HashOf(RowAddress row) { return row.value() * 0x9e3779b97f4a7c15u; }
  [[nodiscard]] uint32_t SetOf(RowAddress row) const {
    return static_cast<uint32_t>(((HashOf(row) >> 32) * set_count_) >> 32);
  }
  [[nodiscard]] std::byte* RowAt(uint32_t set, uint32_t way) const {
    return rows_ + (size_t{set} * kWays + way) * row_bytes_;
  }
  // True if the row was seen not long ago; remembers it.
  [[nodiscard]] bool SeenBefore(RowAddress row);

  const uint32_t row_bytes_;
  uint32_t set_count_ = 0;
  size_t row_count_ = 0;
  TableVersion version_;
  std::unique_ptr<uint64_t[]> keys_;       // [sets][kWays] address, or kEmpty
  std::unique_ptr<uint8_t[]> found_;       // [sets] bit per way: found since the hand passed
  std::unique_ptr<uint8_t[]> hands_;       // [sets] next way to look at
  std::unique_ptr<uint32_t[]> sightings_;  // [sets * kWays * kSightingsPerRow] fingerprints
  std::byte* rows_ = nullptr;              // [sets][kWays][row_bytes], mapped
  size_t mapped_bytes_ = 0;
};

}  // namespace engram
