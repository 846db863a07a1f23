#include "shard_server/load_plan.h"

#include <map>

#include <gtest/gtest.h>

#include "tests/unit/shard_server/small_node.h"

namespace engram {
namespace {

std::vector<SlotIndex> Slots(const std::vector<uint32_t>& numbers) {
  std::vector<SlotIndex> slots;
  for (const uint32_t number : numbers) slots.emplace_back(number);
  return slots;
}

TEST(LoadPlanTest, NeighbouringSlotsAreOneRange) {
  const auto layout = test::SmallLayout();
  const auto chunks = PlanLoad(*layout, Slots({4, 5, 6}), 1 << 20);
  ASSERT_EQ(chunks.size(), 1u);
  ASSERT_EQ(chunks[0].ranges.size(), 1u);
  EXPECT_EQ(chunks[0].ranges[0].first_row, layout->slot(SlotIndex(4)).first_row);
  EXPECT_EQ(chunks[0].ranges[0].row_count, 3 * layout->slot_rows());
  EXPECT_EQ(chunks[0].parts.size(), 3u);
}

TEST(LoadPlanTest, AGapOrAnotherLayerStartsANewRange) {
  const auto layout = test::SmallLayout();
  const uint32_t second_layer = layout->column(1, 0).first_slot;
  const auto chunks = PlanLoad(*layout, Slots({4, 6, second_layer - 1, second_layer}), 1 << 20);
  ASSERT_EQ(chunks.size(), 1u);
  EXPECT_EQ(chunks[0].ranges.size(), 4u);
}

TEST(LoadPlanTest, ChunksFitTheBufferAndCoverEveryRowOnceInOrder) {
  const auto layout = test::SmallLayout();
  const RowParts row = RowPartsOf(layout->spec());
  const auto slots = Slots({0, 1, 2, 9, 10, layout->slot_count() - 1});
  for (const uint64_t buffer_bytes : {1u, 66u, 700u, 5000u, 1u << 20}) {
    const uint64_t rows_max = std::max<uint64_t>(1, buffer_bytes / layout->row_bytes());
    std::map<uint32_t, uint32_t> next_row;
    for (const LoadChunk& chunk : PlanLoad(*layout, slots, buffer_bytes)) {
      EXPECT_LE(chunk.row_count, rows_max);
      uint64_t end = 0;
      for (const LoadRange& range : chunk.ranges) {
        EXPECT_EQ(range.weight_offset, end);
        EXPECT_EQ(range.scale_offset, end + uint64_t{range.row_count} * row.weight_bytes);
        end = range.scale_offset + uint64_t{range.row_count} * row.scale_bytes;
      }
      EXPECT_EQ(end, chunk.row_count * layout->row_bytes());
      for (const LoadPart& part : chunk.parts) {
        EXPECT_EQ(part.row_in_slot, next_row[part.slot_position]);
        next_row[part.slot_position] += part.row_count;
        const SlotRange& slot = layout->slot(slots[part.slot_position]);
        const LoadRange& range = chunk.ranges[part.range];
        EXPECT_EQ(range.first_row.value() + part.row_in_range,
                  slot.first_row.value() + part.row_in_slot);
        EXPECT_EQ(range.layer_index, slot.layer_index);
      }
    }
    for (uint32_t i = 0; i < slots.size(); ++i) {
      EXPECT_EQ(next_row[i], layout->slot(slots[i]).row_count);
    }
  }
}

TEST(LoadPlanTest, RowPartsAddUpToTheRow) {
  TableSpec spec = test::SmallSpec();
  EXPECT_EQ(RowPartsOf(spec).weight_bytes, 64u);
  EXPECT_EQ(RowPartsOf(spec).scale_bytes, 2u);
  spec.row_format = RowFormat::kBf16;
  EXPECT_EQ(RowPartsOf(spec).weight_bytes, 128u);
  EXPECT_EQ(RowPartsOf(spec).scale_bytes, 0u);
}

}  // namespace
}  // namespace engram
