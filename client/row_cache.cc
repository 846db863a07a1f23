#include "client/row_cache.h"

#include <algorithm>
#include <cstring>

#include <sys/mman.h>

namespace engram {

RowCache::RowCache(size_t bytes_max, uint32_t row_bytes) : row_bytes_(row_bytes) {
  const size_t set_bytes =
      kWays * (size_t{row_bytes} + sizeof(uint64_t) + kSightingsPerRow * sizeof(uint32_t)) + 2;
  constexpr size_t kPageBytes = 4096;
  const size_t usable = bytes_max > kPageBytes ? bytes_max - kPageBytes : 0;
  set_count_ = static_cast<uint32_t>(std::min<size_t>(usable / set_bytes, UINT32_MAX / 16));
  if (set_count_ == 0) return;
  mapped_bytes_ = (rows_max() * row_bytes_ + kPageBytes - 1) / kPageBytes * kPageBytes;
  void* memory = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {  // a cache is a convenience: without memory it is off
    set_count_ = 0;
    mapped_bytes_ = 0;
    return;
  }
  (void)madvise(memory, mapped_bytes_, MADV_HUGEPAGE);
  rows_ = static_cast<std::byte*>(memory);
  keys_ = std::make_unique<uint64_t[]>(rows_max());
  found_ = std::make_unique<uint8_t[]>(set_count_);
  hands_ = std::make_unique<uint8_t[]>(set_count_);
  sightings_ = std::make_unique<uint32_t[]>(rows_max() * kSightingsPerRow);
  Reset(TableVersion());
}

RowCache::~RowCache() {
  if (rows_ != nullptr) munmap(rows_, mapped_bytes_);
}

void RowCache::Reset(TableVersion version) {
  version_ = version;
  row_count_ = 0;
  if (set_count_ == 0) return;
  std::fill_n(keys_.get(), rows_max(), kEmpty);
  std::fill_n(found_.get(), set_count_, uint8_t{0});
  std::fill_n(hands_.get(), set_count_, uint8_t{0});
  std::fill_n(sightings_.get(), rows_max() * kSightingsPerRow, uint32_t{0});
}

const std::byte* RowCache::Find(RowAddress row) {
  if (set_count_ == 0) return nullptr;
  const uint32_t set = SetOf(row);
  const uint64_t* keys = keys_.get() + size_t{set} * kWays;
  for (uint32_t way = 0; way < kWays; ++way) {
    if (keys[way] == row.value()) {
      found_[set] = static_cast<uint8_t>(found_[set] | (1u << way));
      return RowAt(set, way);
    }
  }
  return nullptr;
}

bool RowCache::SeenBefore(RowAddress row) {
  const uint64_t hash = HashOf(row);
  const size_t count = rows_max() * kSightingsPerRow;
  const auto place = static_cast<size_t>(((hash >> 32) * count) >> 32);
  // Never 0, which means nothing seen. The low bits differ where the place is the same.
  const uint32_t fingerprint = static_cast<uint32_t>(hash ^ (row.value() >> 13)) | 1u;
  if (sightings_[place] == fingerprint) return true;
  sightings_[place] = fingerprint;
  return false;
}

void RowCache::Insert(RowAddress row, const std::byte* bytes) {
  if (set_count_ == 0) return;
  const uint32_t set = SetOf(row);
  uint64_t* keys = keys_.get() + size_t{set} * kWays;
  uint32_t way = 0;
  while (way < kWays && keys[way] != kEmpty) ++way;
  if (way == kWays) {
    if (!SeenBefore(row)) return;
    way = hands_[set];
    while ((found_[set] >> way & 1u) != 0) {
      found_[set] = static_cast<uint8_t>(found_[set] & ~(1u << way));
      way = (way + 1) % kWays;
    }
    hands_[set] = static_cast<uint8_t>((way + 1) % kWays);
  } else {
    ++row_count_;
  }
  keys[way] = row.value();
  std::memcpy(RowAt(set, way), bytes, row_bytes_);
}

size_t RowCache::bytes_used() const {
  if (set_count_ == 0) return 0;
  return mapped_bytes_ + rows_max() * (sizeof(uint64_t) + kSightingsPerRow * sizeof(uint32_t)) +
         size_t{set_count_} * 2;
}

}  // namespace engram
