#include "tests/sim/sim_tables.h"

#include <cstring>

#include "engram/table/stored_row.h"

namespace engram::sim {
namespace {

void FillRow(TableVersion version, const RowPlace& place, std::byte* row) {
  const TableLayout& layout = *SimLayout();
  uint64_t word =
      version.value() << 40 ^ static_cast<uint64_t>(place.layer_index) << 32 ^ place.row.value();
  for (uint32_t i = 0; i + 8 <= layout.row_bytes(); i += 8) {
    word = word * 0x5851f42d4c957f2du + 0x14057b7ef767814fu;
    std::memcpy(row + i, &word, 8);
  }
  const int32_t layer_id = layout.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
  SealRow(version, layer_id, place.row, row, layout.row_bytes());
}

}  // namespace

TableSpec SimSpec() {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 2;
  spec.hash.head_count = 1;
  spec.hash.base_sizes = {130};
  spec.hash.layer_ids = {1};
  spec.hash.compressed_vocab_size = 100;
  spec.hash.pad_id = 2;
  spec.row_format = RowFormat::kF32;
  spec.row_values = 63;  // so that a slot of two rows fills whole pieces of memory
  return spec;
}

const std::shared_ptr<const TableLayout>& SimLayout() {
  static const auto layout =
      std::make_shared<const TableLayout>(TableLayout::Create(SimSpec()).value());
  return layout;
}

ModelIdentity SimIdentity() {
  ModelIdentity identity{};
  identity[0] = 7;
  return identity;
}

std::vector<std::byte> SimSlot(TableVersion version, SlotIndex slot) {
  const TableLayout& layout = *SimLayout();
  std::vector<std::byte> rows(layout.slot_bytes(slot));
  const SlotRange& range = layout.slot(slot);
  for (uint32_t r = 0; r < range.row_count; ++r) {
    FillRow(version, {range.layer_index, RowId(range.first_row.value() + r)},
            rows.data() + size_t{r} * layout.row_stride());
  }
  return rows;
}

bool IsRight(TableVersion version, RowAddress row, const std::byte* stored) {
  const TableLayout& layout = *SimLayout();
  std::byte right[256] = {};
  FillRow(version, layout.Place(row), right);
  return std::memcmp(stored, right, layout.row_stride()) == 0;
}

}  // namespace engram::sim
