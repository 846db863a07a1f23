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

TEST(StoredRowTest, RowsTogetherVerifyAsOneByOne) {
  constexpr size_t kRows = 11;  // no multiple of what is taken at once
  for (const uint32_t row_bytes : {1u, 7u, 8u, 63u, 160u, 264u}) {
    std::vector<std::vector<std::byte>> stored;
    std::vector<PlacedRow> rows;
    for (size_t i = 0; i < kRows; ++i) {
      const auto layer_id = static_cast<int32_t>(i % 3);
      stored.push_back(CountingRow(row_bytes));
      stored[i][0] = static_cast<std::byte>(i);
      SealRow(TableVersion(3), layer_id, RowId(i), stored[i].data(), row_bytes);
      rows.push_back({layer_id, RowId(i), stored[i].data()});
    }
    for (size_t count = 0; count <= kRows; ++count) {
      for (size_t damaged = 0; damaged <= count; ++damaged) {  // count: none is
        if (damaged < count) stored[damaged][row_bytes / 2] ^= std::byte{4};
        std::vector<uint8_t> right(kRows, 9);
        VerifyRows(TableVersion(3), std::span(rows).first(count), row_bytes, right.data());
        for (size_t i = 0; i < kRows; ++i) {
          EXPECT_EQ(right[i], i >= count ? 9 : i == damaged ? 0 : 1) << row_bytes << " " << i;
        }
        if (damaged < count) stored[damaged][row_bytes / 2] ^= std::byte{4};
      }
    }
    rows[5].row = RowId(6);  // the bytes of another place
    std::vector<uint8_t> right(kRows);
    VerifyRows(TableVersion(3), rows, row_bytes, right.data());
    EXPECT_EQ(right[5], 0);
    EXPECT_EQ(right[6], 1);
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
