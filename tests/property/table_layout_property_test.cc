// The layout against a slow, obvious model: a list of every row with its slot.
#include <gtest/gtest.h>
#include <rapidcheck.h>
#include <rapidcheck/gtest.h>

#include "engram/table/table_layout.h"

namespace engram {
namespace {

TableSpec ArbitrarySpec() {
  TableSpec spec;
  spec.hash.variant = *rc::gen::element(Variant::kDemo, Variant::kV41);
  spec.hash.max_ngram_size = *rc::gen::inRange(2, 5);
  spec.hash.head_count = *rc::gen::inRange(1, 5);
  const int64_t base = *rc::gen::inRange(1, 3000);
  spec.hash.base_sizes.assign(static_cast<size_t>(spec.hash.max_ngram_size - 1), base);
  if (*rc::gen::inRange(0, 2) == 1) spec.hash.layer_ids.push_back(14);
  spec.hash.layer_ids.push_back(1);
  spec.hash.compressed_vocab_size = 1000;
  spec.row_format = *rc::gen::element(RowFormat::kF8E4M3ScaleE8M0, RowFormat::kBf16,
                                      RowFormat::kF16, RowFormat::kF32);
  spec.row_values = 32 * *rc::gen::inRange(1u, kRowValuesMax / 32 + 1);
  if (spec.hash.variant == Variant::kDemo) spec.hash.seed = 5;
  return spec;
}

RC_GTEST_PROP(TableLayoutProperty, EveryRowBelongsToExactlyOneSlotAndItsAddressComesBack, ()) {
  const TableSpec spec = ArbitrarySpec();
  const auto layout = TableLayout::Create(spec);
  RC_ASSERT(layout.has_value());
  const auto sizes = ColumnSizes(spec.hash).value();

  uint32_t slot = 0;
  uint64_t bytes = 0;
  for (int32_t l = 0; l < layout->layer_count(); ++l) {
    uint64_t row = 0;
    for (int32_t c = 0; c < layout->column_count(); ++c) {
      const uint32_t rows = sizes[static_cast<size_t>(l)][static_cast<size_t>(c)];
      RC_ASSERT(layout->column(l, c).row_count == rows);
      RC_ASSERT(layout->column(l, c).row_offset == row);
      for (uint32_t bucket = 0; bucket < rows; ++bucket, ++row) {
        // A new slot starts at each column and after every slot_rows rows.
        const uint32_t in_slot = bucket % layout->slot_rows();
        if (in_slot == 0 && !(l == 0 && c == 0 && bucket == 0)) ++slot;
        const RowAddress address = layout->Address(l, c, bucket);
        RC_ASSERT(layout->Contains(address));
        RC_ASSERT(layout->SlotOf(address).value() == slot);
        RC_ASSERT(layout->RowInSlot(address) == in_slot);
        RC_ASSERT(layout->AddressOf(l, RowId(row)).value() == address);
        const RowPlace place = layout->Place(address);
        RC_ASSERT(place.layer_index == l);
        RC_ASSERT(place.row == RowId(row));
        bytes += layout->row_stride();
      }
    }
    RC_ASSERT(layout->row_count(l) == row);
    RC_ASSERT(!layout->AddressOf(l, RowId(row)).has_value());
  }
  RC_ASSERT(layout->slot_count() == slot + 1);
  RC_ASSERT(layout->total_bytes() == bytes);
}

RC_GTEST_PROP(TableLayoutProperty, AddressesThatNameNoRowAreNotContained, ()) {
  const auto layout = TableLayout::Create(ArbitrarySpec());
  RC_ASSERT(layout.has_value());
  uint64_t contained = 0;
  const uint64_t end = uint64_t{layout->slot_count()} << layout->slot_shift();
  for (uint64_t a = 0; a < end; ++a) contained += layout->Contains(RowAddress(a)) ? 1 : 0;
  uint64_t rows = 0;
  for (int32_t l = 0; l < layout->layer_count(); ++l) rows += layout->row_count(l);
  RC_ASSERT(contained == rows);
  const uint64_t beyond = *rc::gen::arbitrary<uint64_t>();
  if (beyond >= end) RC_ASSERT(!layout->Contains(RowAddress(beyond)));
}

RC_GTEST_PROP(TableLayoutProperty, SlotRowsIsTheLargestPowerOfTwoThatTheRuleAllows, ()) {
  TableSpec spec = ArbitrarySpec();
  for (auto& base : spec.hash.base_sizes) base = *rc::gen::inRange<int64_t>(1, 500000);
  const auto layout = TableLayout::Create(spec);
  RC_ASSERT(layout.has_value());
  const auto allowed = [&](uint64_t slot_rows) {
    if (slot_rows * layout->row_stride() > kSlotBytesMax) return false;
    for (int32_t l = 0; l < layout->layer_count(); ++l) {
      for (int32_t c = 0; c < layout->column_count(); ++c) {
        const uint64_t rows = layout->column(l, c).row_count;
        if ((rows + slot_rows - 1) / slot_rows < kSlotsPerColumnMin) return false;
      }
    }
    return true;
  };
  uint64_t expected = 1;
  for (uint64_t rows = 1; rows <= (1u << 22); rows *= 2) {
    if (allowed(rows)) expected = rows;
  }
  RC_ASSERT(layout->slot_rows() == expected);
}

}  // namespace
}  // namespace engram
