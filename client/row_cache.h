// Rows of hot n-grams kept in this process, in a fixed amount of memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace engram {

// What names the rows of an n-gram in one table version.
struct NgramKey {
  uint64_t mix = 0;    // NgramHasher::Mix
  uint32_t table = 0;  // < 2^16; of the mix's layer and order: others have other rows
};

// Verified rows of one table version, an n-gram's together: one look-up finds all of them. Eight-
// way sets; a full set takes an n-gram in only if it was clearly asked for more often, not long
// ago, than the least asked for that is there (TinyLFU: Einziger, Friedman and Manes, 2017), so
// that the many n-grams of one occurrence neither cost a copy nor push out hot ones. One owner
// thread. All memory is taken at construction.
class RowCache {
 public:
  // At most `bytes_max` bytes for rows and bookkeeping together; too few for one set: always empty.
  //   rows_max   of an n-gram
  RowCache(size_t bytes_max, uint32_t row_bytes, uint32_t rows_max);
  ~RowCache();
  RowCache(const RowCache&) = delete;
  RowCache& operator=(const RowCache&) = delete;

  // [rows][row_bytes], valid until the next Insert; null when they are not here. Counts as asking.
  [[nodiscard]] const std::byte* Find(NgramKey key);
  // Whether Insert would take it in now.
  [[nodiscard]] bool Admits(NgramKey key) const;
  // Where the caller must write the n-gram's verified rows, [rows][row_bytes], before any other
  // call; null if it is not admitted, or is here already.
  [[nodiscard]] std::byte* Insert(NgramKey key);
  // Brings the memory that Find(key) will look at closer.
  void Prefetch(NgramKey key) const {
    if (set_count_ == 0) return;
    const uint64_t hash = HashOf(key);
    const Set* const set = &sets_[Scale(hash >> 32, set_count_)];
    __builtin_prefetch(set);
    __builtin_prefetch(&set->tables);
    __builtin_prefetch(CountersOf(hash));
  }

  [[nodiscard]] size_t ngrams_max() const { return size_t{set_count_} * kWays; }
  [[nodiscard]] size_t ngrams() const { return ngram_count_; }
  [[nodiscard]] size_t bytes_used() const { return mapped_bytes_; }

 private:
  static constexpr uint32_t kWays = 8;
  static constexpr uint16_t kEmpty = 0xffff;
  static constexpr size_t kLineBytes = 64;
  // An n-gram's count is the lesser of two counters in one cache line. Halved, all of them, after
  // this many n-grams were asked for on each place of the cache: what was hot cools down.
  static constexpr uint32_t kCountersPerNgram = 32;
  static constexpr uint32_t kHalvingPeriod = 64;
  // Counts err: one more could be chance, and costs two copies.
  static constexpr uint32_t kAskedMore = 2;

  struct alignas(2 * kLineBytes) Set {
    uint64_t mixes[kWays];
    uint16_t tables[kWays];  // kEmpty: nothing here
    uint8_t asked[kWays];    // as the counters count
    uint16_t halvings;       // of `asked`; behind the cache's: to be made up for
  };

  [[nodiscard]] static uint64_t HashOf(NgramKey key) {
    uint64_t hash = (key.mix ^ (uint64_t{key.table} << 48)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
    return hash * 0xd6e8feb86659fd93u;
  }
  // From 32 bits to [0, count).
  [[nodiscard]] static uint32_t Scale(uint64_t bits, uint32_t count) {
    return static_cast<uint32_t>((bits * count) >> 32);
  }
  [[nodiscard]] uint8_t* CountersOf(uint64_t hash) const {
    return counters_ + size_t{Scale(hash & 0xffffffffu, counter_lines_)} * kLineBytes;
  }
  [[nodiscard]] std::byte* RowsAt(const Set& set, uint32_t way) const {
    return rows_ + (static_cast<size_t>(&set - sets_) * kWays + way) * ngram_bytes_;
  }
  [[nodiscard]] static uint32_t WayOf(const Set& set, NgramKey key);
  // The way that is free or asked for least.
  [[nodiscard]] static uint32_t LeastAsked(const Set& set);
  [[nodiscard]] uint8_t CountOf(uint64_t hash) const;
  void Count(uint64_t hash);
  void Halve();
  void CatchUp(Set& set) const;

  const size_t ngram_bytes_;
  uint32_t set_count_ = 0;
  uint32_t counter_lines_ = 0;
  uint16_t halvings_ = 0;
  size_t asked_ = 0;  // since the last halving
  size_t ngram_count_ = 0;
  // One mapping: sets [set_count_], counters [counter_lines_][kLineBytes], rows [sets][kWays].
  Set* sets_ = nullptr;
  uint8_t* counters_ = nullptr;
  std::byte* rows_ = nullptr;
  size_t mapped_bytes_ = 0;
};

}  // namespace engram
