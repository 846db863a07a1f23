#include "engram/table/table_layout.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::HasSubstr;

TableSpec ReleasedV41() {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 4;
  spec.hash.head_count = 8;
  spec.hash.base_sizes = {16000000, 16000000, 16000000};
  spec.hash.layer_ids = {1, 14};
  spec.hash.compressed_vocab_size = 99092;
  spec.hash.pad_id = 2;
  spec.row_format = RowFormat::kF8E4M3ScaleE8M0;
  spec.row_values = 256;
  return spec;
}

TableSpec Small(int64_t base_rows) {
  TableSpec spec = ReleasedV41();
  spec.hash.max_ngram_size = 3;
  spec.hash.head_count = 2;
  spec.hash.base_sizes = {base_rows, base_rows};
  spec.row_values = 32;
  return spec;
}

TEST(TableLayoutTest, ReleasedV41HasItsRowCountsAndSlots) {
  const auto layout = TableLayout::Create(ReleasedV41());
  ASSERT_TRUE(layout.has_value()) << layout.error().ToString();
  EXPECT_EQ(layout->row_count(0), 384006168u);
  EXPECT_EQ(layout->row_count(1), 384016682u);
  EXPECT_EQ(layout->row_bytes(), 264u);
  EXPECT_EQ(layout->row_stride(), 268u);
  EXPECT_EQ(layout->slot_rows(), 16384u);
  EXPECT_EQ(layout->column_count(), 24);
  EXPECT_EQ(layout->column(0, 0).row_count, 16000057u);
  EXPECT_EQ(layout->slot_count(), 2u * 24u * 977u);
  EXPECT_EQ(layout->total_bytes(), (384006168ull + 384016682ull) * 268ull);
}

TEST(TableLayoutTest, LastSlotOfAColumnIsShort) {
  const auto layout = TableLayout::Create(ReleasedV41());
  ASSERT_TRUE(layout.has_value());
  const auto& column = layout->column(0, 0);
  const SlotRange& last = layout->slot(SlotIndex(column.first_slot + column.slot_count - 1));
  EXPECT_EQ(last.row_count, 16000057u % 16384u);
  EXPECT_EQ(layout->slot(SlotIndex(column.first_slot)).row_count, 16384u);
  EXPECT_EQ(layout->slot_bytes(SlotIndex(column.first_slot)), 16384u * 268u);
  const RowAddress last_row = layout->Address(0, 0, column.row_count - 1);
  EXPECT_TRUE(layout->Contains(last_row));
  EXPECT_FALSE(layout->Contains(RowAddress(last_row.value() + 1)));
}

TEST(TableLayoutTest, RowAtSlotBoundaryGoesToNextSlot) {
  const auto layout = TableLayout::Create(ReleasedV41());
  ASSERT_TRUE(layout.has_value());
  const RowAddress before = layout->Address(1, 3, 16383);
  const RowAddress at = layout->Address(1, 3, 16384);
  EXPECT_EQ(layout->SlotOf(at).value(), layout->SlotOf(before).value() + 1);
  EXPECT_EQ(layout->RowInSlot(before), 16383u);
  EXPECT_EQ(layout->RowInSlot(at), 0u);
}

TEST(TableLayoutTest, SlotsHaveAtLeast64PerColumnWhereRowsAllow) {
  const auto layout = TableLayout::Create(Small(90000));
  ASSERT_TRUE(layout.has_value());
  // 90,001 rows of 37 bytes would fit one slot of 8 MiB: 1,024 rows leave 88 slots, 2,048 only 44.
  EXPECT_EQ(layout->slot_rows(), 1024u);
  EXPECT_EQ(layout->column(0, 0).slot_count, 88u);
}

TEST(TableLayoutTest, ColumnOfFewRowsHasSlotsOfOneRow) {
  const auto layout = TableLayout::Create(Small(2));
  ASSERT_TRUE(layout.has_value());
  EXPECT_EQ(layout->slot_rows(), 1u);
  EXPECT_EQ(layout->column(0, 0).row_count, 2u);
  EXPECT_EQ(layout->column(0, 0).slot_count, 2u);
}

TEST(TableLayoutTest, LargeRowsAreBoundByTheSlotsBytes) {
  TableSpec spec = Small(10000000);
  spec.row_format = RowFormat::kF32;
  spec.row_values = kRowValuesMax;
  const auto layout = TableLayout::Create(spec);
  ASSERT_TRUE(layout.has_value()) << layout.error().ToString();
  EXPECT_EQ(layout->row_stride(), 16388u);
  EXPECT_EQ(layout->slot_rows(), 256u);  // 512 rows would be 8,390,656 bytes
}

TEST(TableLayoutTest, AddressOfRefusesWhatIsOutOfRange) {
  const auto layout = TableLayout::Create(ReleasedV41());
  ASSERT_TRUE(layout.has_value());
  EXPECT_TRUE(layout->AddressOf(0, RowId(384006167)).has_value());
  const auto past = layout->AddressOf(0, RowId(384006168));
  ASSERT_FALSE(past.has_value());
  EXPECT_EQ(past.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(past.error().message(), HasSubstr("row 384006168 of layer 1"));
  EXPECT_FALSE(layout->AddressOf(2, RowId(0)).has_value());
  EXPECT_FALSE(layout->AddressOf(-1, RowId(0)).has_value());
}

TEST(TableLayoutTest, ContainsRefusesAddressesBeyondTheLastSlot) {
  const auto layout = TableLayout::Create(Small(1000));
  ASSERT_TRUE(layout.has_value());
  const uint64_t end = uint64_t{layout->slot_count()} << layout->slot_shift();
  EXPECT_FALSE(layout->Contains(RowAddress(end)));
  EXPECT_FALSE(layout->Contains(RowAddress(0xffffffffffffffffull)));
  EXPECT_FALSE(layout->Contains(RowAddress(uint64_t{1} << (32 + layout->slot_shift()))));
  EXPECT_TRUE(layout->Contains(RowAddress(0)));
}

TEST(TableLayoutTest, RefusesScaledRowsThatAreNoMultipleOf32) {
  TableSpec spec = Small(1000);
  spec.row_values = 40;
  const auto layout = TableLayout::Create(spec);
  ASSERT_FALSE(layout.has_value());
  EXPECT_THAT(layout.error().message(), HasSubstr("row_values = 40, expected a multiple of 32"));
}

TEST(TableLayoutTest, RefusesRowsOfNoValuesOrTooMany) {
  TableSpec spec = Small(1000);
  spec.row_format = RowFormat::kBf16;
  spec.row_values = 0;
  EXPECT_FALSE(TableLayout::Create(spec).has_value());
  spec.row_values = kRowValuesMax + 1;
  EXPECT_FALSE(TableLayout::Create(spec).has_value());
  spec.row_values = kRowValuesMax;
  spec.row_format = static_cast<RowFormat>(9);
  EXPECT_FALSE(TableLayout::Create(spec).has_value());
}

TEST(TableLayoutTest, RefusesMoreSlotsThanTheBound) {
  TableSpec spec = ReleasedV41();
  spec.hash.base_sizes = {4000000000, 4000000000, 4000000000};
  const auto layout = TableLayout::Create(spec);
  ASSERT_FALSE(layout.has_value());
  EXPECT_THAT(layout.error().message(), HasSubstr("at most 4194304 are allowed"));
}

TEST(TableLayoutTest, RowBytesOfEveryFormat) {
  EXPECT_EQ(RowBytes(RowFormat::kF8E4M3ScaleE8M0, 256), 264u);
  EXPECT_EQ(RowBytes(RowFormat::kBf16, 80), 160u);
  EXPECT_EQ(RowBytes(RowFormat::kF16, 80), 160u);
  EXPECT_EQ(RowBytes(RowFormat::kF32, 64), 256u);
}

}  // namespace
}  // namespace engram
