#include "client/row_cache.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

constexpr uint32_t kRowBytes = 264;

std::vector<std::byte> Row(uint64_t n) {
  std::vector<std::byte> row(kRowBytes);
  std::memcpy(row.data(), &n, sizeof(n));
  return row;
}
bool Holds(RowCache& cache, uint64_t n) {
  const std::byte* found = cache.Find(RowAddress(n));
  return found != nullptr && std::memcmp(found, Row(n).data(), kRowBytes) == 0;
}

TEST(RowCacheTest, WithoutBytesItIsAlwaysEmpty) {
  RowCache cache(0, kRowBytes);
  cache.Insert(RowAddress(1), Row(1).data());
  EXPECT_EQ(cache.Find(RowAddress(1)), nullptr);
  EXPECT_EQ(cache.rows_max(), 0u);
  EXPECT_EQ(cache.bytes_used(), 0u);
}

TEST(RowCacheTest, MemoryStaysWithinTheBound) {
  for (const size_t bytes : {size_t{3000}, size_t{10'000}, size_t{1} << 20, size_t{64} << 20}) {
    RowCache cache(bytes, kRowBytes);
    EXPECT_LE(cache.bytes_used(), bytes);
  }
  RowCache cache(size_t{64} << 20, kRowBytes);
  EXPECT_GT(cache.rows_max() * kRowBytes, size_t{60} << 20);
}

TEST(RowCacheTest, RowsThatFitAreFoundAgain) {
  RowCache cache(1 << 20, kRowBytes);
  for (uint64_t n = 0; n < 500; ++n) cache.Insert(RowAddress(n * 977), Row(n * 977).data());
  int found = 0;
  for (uint64_t n = 0; n < 500; ++n) found += Holds(cache, n * 977) ? 1 : 0;
  EXPECT_GT(found, 490);
}

TEST(RowCacheTest, ResetForgetsEveryRow) {
  RowCache cache(1 << 20, kRowBytes);
  cache.Reset(TableVersion(1));
  cache.Insert(RowAddress(5), Row(5).data());
  ASSERT_TRUE(Holds(cache, 5));
  EXPECT_EQ(cache.rows(), 1u);
  cache.Reset(TableVersion(2));
  EXPECT_EQ(cache.rows(), 0u);
  EXPECT_EQ(cache.version(), TableVersion(2));
  EXPECT_EQ(cache.Find(RowAddress(5)), nullptr);
}

TEST(RowCacheTest, HotRowsOutliveAScanOfColdOnes) {
  RowCache cache(1 << 20, kRowBytes);
  const auto hot_count = cache.rows_max() / 4;
  for (uint64_t n = 0; n < hot_count; ++n) cache.Insert(RowAddress(n), Row(n).data());
  for (uint64_t n = 0; n < hot_count; ++n) (void)cache.Find(RowAddress(n));
  for (uint64_t n = 1'000'000; n < 1'000'000 + 20 * cache.rows_max(); ++n) {
    if (cache.Find(RowAddress(n)) == nullptr) cache.Insert(RowAddress(n), Row(n).data());
    (void)cache.Find(RowAddress(n % hot_count));
  }
  uint64_t kept = 0;
  for (uint64_t n = 0; n < hot_count; ++n) kept += Holds(cache, n) ? 1 : 0;
  EXPECT_GT(kept, hot_count * 9 / 10);
}

TEST(RowCacheTest, RowSeenTwiceGetsInWhenItsSetIsFull) {
  RowCache cache(20'000, kRowBytes);
  for (uint64_t n = 0; n < 10 * cache.rows_max(); ++n) {
    if (cache.Find(RowAddress(n)) == nullptr) cache.Insert(RowAddress(n), Row(n).data());
  }
  constexpr uint64_t kNew = 123'456'789;
  cache.Insert(RowAddress(kNew), Row(kNew).data());
  EXPECT_EQ(cache.Find(RowAddress(kNew)), nullptr);
  cache.Insert(RowAddress(kNew), Row(kNew).data());
  EXPECT_TRUE(Holds(cache, kNew));
}

}  // namespace
}  // namespace engram
