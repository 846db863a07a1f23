#include "client/row_cache.h"

#include <algorithm>

#include <sys/mman.h>

namespace engram {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;
constexpr size_t kHugePagesFrom = 8 * kHugePageBytes;

// Two counters of a line, and their bits of an n-gram's hash.
struct CounterPlaces {
  explicit CounterPlaces(uint64_t hash)
      : first(static_cast<uint32_t>(hash >> 58)), second(static_cast<uint32_t>(hash >> 52) & 63u) {}
  uint32_t first;
  uint32_t second;
};

}  // namespace

RowCache::RowCache(size_t bytes_max, uint32_t row_bytes, uint32_t rows_max)
    : ngram_bytes_(size_t{row_bytes} * rows_max) {
  // A mapping of whole huge pages is aligned to them: those of all sets stay in the TLB.
  const size_t page_bytes = bytes_max < kHugePagesFrom ? 4096 : kHugePageBytes;
  const size_t set_bytes = sizeof(Set) + kWays * (ngram_bytes_ + kCountersPerNgram);
  const size_t usable = bytes_max > page_bytes ? bytes_max - page_bytes : 0;
  const auto sets = static_cast<uint32_t>(std::min<size_t>(usable / set_bytes, UINT32_MAX / 64));
  if (sets == 0 || rows_max == 0) return;
  constexpr size_t kLinesPerSet = size_t{kWays} * kCountersPerNgram / kLineBytes;
  const size_t rows_at = size_t{sets} * (sizeof(Set) + kLinesPerSet * kLineBytes);
  const size_t bytes =
      (rows_at + size_t{sets} * kWays * ngram_bytes_ + page_bytes - 1) / page_bytes * page_bytes;
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;  // a cache is a convenience: without memory it is off
  (void)madvise(memory, bytes, MADV_HUGEPAGE);
  (void)madvise(memory, bytes, MADV_POPULATE_WRITE);
  mapped_bytes_ = bytes;
  set_count_ = sets;
  counter_lines_ = sets * kLinesPerSet;
  sets_ = static_cast<Set*>(memory);
  counters_ = reinterpret_cast<uint8_t*>(sets_ + sets);
  rows_ = static_cast<std::byte*>(memory) + rows_at;
  for (uint32_t i = 0; i < sets; ++i) {
    std::fill_n(static_cast<uint16_t*>(sets_[i].tables), kWays, kEmpty);
  }
}

RowCache::~RowCache() {
  if (sets_ != nullptr) munmap(sets_, mapped_bytes_);
}

uint32_t RowCache::WayOf(const Set& set, NgramKey key) {
  uint32_t way = 0;
  while (way < kWays && (set.mixes[way] != key.mix || set.tables[way] != key.table)) ++way;
  return way;
}

uint32_t RowCache::LeastAsked(const Set& set) {
  uint32_t least = 0;
  for (uint32_t way = 0; way < kWays; ++way) {
    if (set.tables[way] == kEmpty) return way;
    if (set.asked[way] < set.asked[least]) least = way;
  }
  return least;
}

uint8_t RowCache::CountOf(uint64_t hash) const {
  const uint8_t* const line = CountersOf(hash);
  const CounterPlaces places(hash);
  return std::min(line[places.first], line[places.second]);
}

void RowCache::Count(uint64_t hash) {
  uint8_t* const line = CountersOf(hash);
  const CounterPlaces places(hash);
  // Only what is at the minimum: the other one has counted somebody else too.
  const uint8_t count = std::min(line[places.first], line[places.second]);
  if (count == UINT8_MAX) return;
  for (const uint32_t place : {places.first, places.second}) {
    line[place] = std::max<uint8_t>(line[place], static_cast<uint8_t>(count + 1));
  }
}

void RowCache::Halve() {
  const size_t count = size_t{counter_lines_} * kLineBytes;
  for (size_t i = 0; i < count; ++i) counters_[i] = static_cast<uint8_t>(counters_[i] >> 1);
  ++halvings_;
  asked_ = 0;
}

void RowCache::CatchUp(Set& set) const {
  const auto behind = static_cast<uint16_t>(halvings_ - set.halvings);
  if (behind == 0) return;
  set.halvings = halvings_;
  for (uint8_t& asked : set.asked) {
    asked = static_cast<uint8_t>(behind < 8 ? asked >> behind : 0);
  }
}

const std::byte* RowCache::Find(NgramKey key) {
  if (set_count_ == 0) return nullptr;
  const uint64_t hash = HashOf(key);
  if (++asked_ > ngrams_max() * kHalvingPeriod) Halve();
  Set& set = sets_[Scale(hash >> 32, set_count_)];
  CatchUp(set);
  const uint32_t way = WayOf(set, key);
  if (way == kWays) {
    Count(hash);
    return nullptr;
  }
  if (set.asked[way] < UINT8_MAX) ++set.asked[way];
  return RowsAt(set, way);
}

bool RowCache::Admits(NgramKey key) const {
  if (set_count_ == 0) return false;
  const uint64_t hash = HashOf(key);
  const Set& set = sets_[Scale(hash >> 32, set_count_)];
  const uint32_t least = LeastAsked(set);
  return set.tables[least] == kEmpty || CountOf(hash) >= set.asked[least] + kAskedMore;
}

std::byte* RowCache::Insert(NgramKey key) {
  if (!Admits(key)) return nullptr;
  const uint64_t hash = HashOf(key);
  Set& set = sets_[Scale(hash >> 32, set_count_)];
  if (WayOf(set, key) != kWays) return nullptr;
  const uint32_t way = LeastAsked(set);
  if (set.tables[way] == kEmpty) ++ngram_count_;
  set.mixes[way] = key.mix;
  set.tables[way] = static_cast<uint16_t>(key.table);
  set.asked[way] = CountOf(hash);
  return RowsAt(set, way);
}

}  // namespace engram
