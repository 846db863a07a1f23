#include "client/row_cache.h"

#include <cstring>

#include <gtest/gtest.h>

namespace engram {
namespace {

constexpr uint32_t kRowBytes = 264;
constexpr uint32_t kRows = 8;

NgramKey Key(uint64_t n) { return {.mix = n * 0x1'0000'0001, .table = 0}; }

// Asks for the n-gram, and offers its rows where they are not there. True if they were.
bool Ask(RowCache& cache, uint64_t n) {
  if (const std::byte* const found = cache.Find(Key(n)); found != nullptr) {
    uint64_t stored = 0;
    std::memcpy(&stored, found, sizeof(stored));
    EXPECT_EQ(stored, n);
    return true;
  }
  if (std::byte* const place = cache.Insert(Key(n)); place != nullptr) {
    std::memcpy(place, &n, sizeof(n));
  }
  return false;
}

TEST(RowCacheTest, WithoutBytesItIsAlwaysEmpty) {
  RowCache cache(0, kRowBytes, kRows);
  EXPECT_FALSE(cache.Admits(Key(1)));
  EXPECT_EQ(cache.Insert(Key(1)), nullptr);
  EXPECT_EQ(cache.Find(Key(1)), nullptr);
  EXPECT_EQ(cache.ngrams_max(), 0u);
  EXPECT_EQ(cache.bytes_used(), 0u);
}

TEST(RowCacheTest, MemoryStaysWithinTheBound) {
  for (const size_t bytes :
       {size_t{3000}, size_t{30'000}, size_t{1} << 20, size_t{17} << 20, size_t{64} << 20}) {
    RowCache cache(bytes, kRowBytes, kRows);
    EXPECT_LE(cache.bytes_used(), bytes);
  }
  RowCache cache(size_t{64} << 20, kRowBytes, kRows);
  EXPECT_GT(cache.ngrams_max() * kRows * kRowBytes, size_t{60} << 20);
}

TEST(RowCacheTest, RowsThatFitAreFoundAgain) {
  RowCache cache(1 << 20, kRowBytes, kRows);
  const uint64_t count = cache.ngrams_max() / 3;
  for (uint64_t n = 0; n < count; ++n) EXPECT_FALSE(Ask(cache, n * 977));
  uint64_t found = 0;
  for (uint64_t n = 0; n < count; ++n) found += Ask(cache, n * 977) ? 1 : 0;
  EXPECT_GT(found, count * 97 / 100);
  EXPECT_EQ(cache.ngrams(), count);
}

TEST(RowCacheTest, TheSameMixOfAnotherTableIsAnotherNgram) {
  RowCache cache(1 << 20, kRowBytes, kRows);
  (void)Ask(cache, 5);
  NgramKey other = Key(5);
  other.table = 1;
  EXPECT_EQ(cache.Find(other), nullptr);
  EXPECT_NE(cache.Insert(other), nullptr);
  EXPECT_NE(cache.Find(other), cache.Find(Key(5)));
}

TEST(RowCacheTest, HotNgramsOutliveAScanOfColdOnes) {
  RowCache cache(1 << 20, kRowBytes, kRows);
  const uint64_t hot_count = cache.ngrams_max() / 4;
  for (int round = 0; round < 3; ++round) {
    for (uint64_t n = 0; n < hot_count; ++n) (void)Ask(cache, n);
  }
  for (uint64_t n = 1'000'000; n < 1'000'000 + 20 * cache.ngrams_max(); ++n) {
    EXPECT_FALSE(Ask(cache, n));
    (void)Ask(cache, n % hot_count);
  }
  uint64_t kept = 0;
  for (uint64_t n = 0; n < hot_count; ++n) kept += Ask(cache, n) ? 1 : 0;
  EXPECT_GT(kept, hot_count * 9 / 10);
}

TEST(RowCacheTest, NgramsOfOneOccurrenceDoNotReplaceOthers) {
  RowCache cache(1 << 20, kRowBytes, kRows);
  for (uint64_t n = 0; n < 10 * cache.ngrams_max(); ++n) (void)Ask(cache, n);
  ASSERT_EQ(cache.ngrams(), cache.ngrams_max());
  uint64_t first_ones = 0;
  for (uint64_t n = 0; n < 3 * cache.ngrams_max(); ++n) {
    first_ones += cache.Find(Key(n)) != nullptr ? 1 : 0;
  }
  EXPECT_GT(first_ones, cache.ngrams_max() * 8 / 10);
}

TEST(RowCacheTest, WhatIsAskedForMoreOftenGetsInWhenItsSetIsFull) {
  RowCache cache(100'000, kRowBytes, kRows);
  for (uint64_t n = 0; n < 50 * cache.ngrams_max(); ++n) (void)Ask(cache, n);
  constexpr uint64_t kNew = 123'456'789;
  EXPECT_FALSE(Ask(cache, kNew));
  int times = 1;
  while (!Ask(cache, kNew) && times < 20) ++times;
  EXPECT_LT(times, 20);
}

TEST(RowCacheTest, WhatWasHotCoolsDown) {
  RowCache cache(100'000, kRowBytes, kRows);
  const uint64_t count = cache.ngrams_max() / 2;
  for (int round = 0; round < 50; ++round) {
    for (uint64_t n = 0; n < count; ++n) (void)Ask(cache, n);
  }
  // Others are hot now.
  for (int round = 0; round < 2000; ++round) {
    for (uint64_t n = 1000; n < 1000 + cache.ngrams_max(); ++n) (void)Ask(cache, n);
  }
  uint64_t found = 0;
  for (uint64_t n = 1000; n < 1000 + cache.ngrams_max(); ++n) found += Ask(cache, n) ? 1 : 0;
  EXPECT_GT(found, cache.ngrams_max() / 2);
}

}  // namespace
}  // namespace engram
