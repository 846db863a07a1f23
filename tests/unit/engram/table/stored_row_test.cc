#include "engram/table/stored_row.h"

#include <vector>

#include <gtest/gtest.h>

#include "engram/base/crc32c.h"
#include "engram/table/table_layout.h"

namespace engram {
namespace {

std::vector<std::byte> CountingRow(uint32_t row_bytes) {
  std::vector<std::byte> stored(row_bytes + kRowCrcBytes);
  for (uint32_t i = 0; i < row_bytes; ++i) stored[i] = static_cast<std::byte>(i < 256 ? i : 0);
  return stored;
}

// Both figures from a bitwise CRC-32C in Python over struct.pack("<QIQ", ...) + row.
TEST(StoredRowTest, CrcCoversVersionLayerRowAndBytes) {
  EXPECT_EQ(RowCrc(TableVersion(7), 14, RowId(384016681), CountingRow(264).data(), 264),
            0x797701f0u);
  const char abc[] = {'a', 'b', 'c'};
  EXPECT_EQ(RowCrc(TableVersion(1), 1, RowId(0), reinterpret_cast<const std::byte*>(abc), 3),
            0x03712811u);
}

TEST(StoredRowTest, SealedRowVerifies) {
  for (const uint32_t row_bytes : {1u, 7u, 8u, 63u, 160u, 264u}) {
    auto stored = CountingRow(row_bytes);
    SealRow(TableVersion(3), 1, RowId(42), stored.data(), row_bytes);
    EXPECT_TRUE(VerifyRow(TableVersion(3), 1, RowId(42), stored.data(), row_bytes)) << row_bytes;
  }
}

TEST(StoredRowTest, RowOfAnotherPlaceDoesNotVerify) {
  auto stored = CountingRow(264);
  SealRow(TableVersion(3), 1, RowId(42), stored.data(), 264);
  EXPECT_FALSE(VerifyRow(TableVersion(4), 1, RowId(42), stored.data(), 264));
  EXPECT_FALSE(VerifyRow(TableVersion(3), 14, RowId(42), stored.data(), 264));
  EXPECT_FALSE(VerifyRow(TableVersion(3), 1, RowId(43), stored.data(), 264));
}

TEST(StoredRowTest, EveryFlippedBitIsSeen) {
  auto stored = CountingRow(264);
  SealRow(TableVersion(3), 1, RowId(42), stored.data(), 264);
  for (size_t bit = 0; bit < stored.size() * 8; ++bit) {
    stored[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
    EXPECT_FALSE(VerifyRow(TableVersion(3), 1, RowId(42), stored.data(), 264)) << bit;
    stored[bit / 8] ^= static_cast<std::byte>(1u << (bit % 8));
  }
}

TEST(StoredRowTest, RowOfZerosDoesNotVerify) {
  const std::vector<std::byte> zeros(268);
  EXPECT_FALSE(VerifyRow(TableVersion(1), 1, RowId(0), zeros.data(), 264));
}

TEST(StoredRowTest, CrcIsWrittenLittleEndianAfterTheRow) {
  auto stored = CountingRow(264);
  SealRow(TableVersion(7), 14, RowId(384016681), stored.data(), 264);
  EXPECT_EQ(std::to_integer<uint32_t>(stored[264]), 0x797701f0u & 0xffu);
  EXPECT_EQ(std::to_integer<uint32_t>(stored[267]), 0x797701f0u >> 24);
}

}  // namespace
}  // namespace engram
