// A small version with sealed rows in a row server's memory, for transport tests.
#pragma once

#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include "engram/table/stored_row.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"
#include "engram/transport/row_server.h"
#include "engram/transport/served_slots.h"

namespace engram::test {

inline std::shared_ptr<const TableLayout> SmallLayout(int64_t column_rows = 2000,
                                                      std::vector<int32_t> layer_ids = {1, 14}) {
  TableSpec spec;
  spec.hash.variant = Variant::kV41;
  spec.hash.max_ngram_size = 3;
  spec.hash.head_count = 2;
  spec.hash.base_sizes = {column_rows, column_rows};
  spec.hash.layer_ids = std::move(layer_ids);
  spec.hash.compressed_vocab_size = 1000;
  spec.hash.pad_id = 2;
  spec.row_format = RowFormat::kF8E4M3ScaleE8M0;
  spec.row_values = 256;
  return std::make_shared<const TableLayout>(TableLayout::Create(spec).value());
}

inline ModelIdentity SmallIdentity() {
  ModelIdentity identity{};
  identity.fill(0x5a);
  return identity;
}

// The bytes that the row at `address` has, CRC included: [row_stride].
inline std::vector<std::byte> StoredRow(const TableLayout& layout, TableVersion version,
                                        RowAddress address) {
  std::vector<std::byte> row(layout.row_stride());
  uint64_t x = address.value() * 0x9e3779b97f4a7c15ull + version.value();
  for (uint32_t i = 0; i < layout.row_bytes(); ++i) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    row[i] = static_cast<std::byte>(x >> 56);
  }
  const RowPlace place = layout.Place(address);
  const int32_t layer_id = layout.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
  SealRow(version, layer_id, place.row, row.data(), layout.row_bytes());
  return row;
}

// All rows of the slots for which `owned(slot)` holds, filled into one region of `server`.
template <typename Owned>
std::shared_ptr<ServedSlots> FillSlots(RowServer& server, TableVersion version,
                                       const std::shared_ptr<const TableLayout>& layout,
                                       Owned owned) {
  const Region region = server.AllocateRegion(layout->total_bytes()).value();
  auto slots = std::make_shared<ServedSlots>(version, SmallIdentity(), layout);
  uint64_t offset = 0;
  for (uint32_t s = 0; s < layout->slot_count(); ++s) {
    if (!owned(s)) continue;
    const SlotIndex slot(s);
    std::byte* const rows = region.bytes.data() + offset;
    for (uint32_t r = 0; r < layout->slot(slot).row_count; ++r) {
      const RowAddress address((uint64_t{s} << layout->slot_shift()) + r);
      const auto row = StoredRow(*layout, version, address);
      std::copy(row.begin(), row.end(), rows + size_t{r} * layout->row_stride());
    }
    slots->Publish(slot, rows, {region.number, offset});
    offset += layout->slot_bytes(slot);
  }
  return slots;
}

// `count` addresses that exist, spread over all slots; the same for the same seed.
inline std::vector<RowAddress> SomeRows(const TableLayout& layout, size_t count,
                                        uint64_t seed = 1) {
  std::vector<RowAddress> rows;
  uint64_t x = seed;
  while (rows.size() < count) {
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    const uint64_t slot = (x >> 33) % layout.slot_count();
    const SlotIndex index(static_cast<uint32_t>(slot));
    x = x * 6364136223846793005ull + 1442695040888963407ull;
    rows.emplace_back((slot << layout.slot_shift()) + (x >> 33) % layout.slot(index).row_count);
  }
  return rows;
}

inline NodeTarget TargetOf(const std::string& address, TableVersion version,
                           const TableLayout& layout) {
  NodeTarget target;
  target.address = address;
  target.version = version;
  target.identity = SmallIdentity();
  target.row_stride = layout.row_stride();
  target.slot_shift = layout.slot_shift();
  target.slot_count = layout.slot_count();
  return target;
}

}  // namespace engram::test
