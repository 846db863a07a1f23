#include "tools/row_text.h"

namespace engram {

std::string RowText(const TableLayout& layout, RowAddress address) {
  const SlotIndex slot = layout.SlotOf(address);
  const RowPlace place = layout.Place(address);
  const int32_t layer_id = layout.spec().hash.layer_ids[static_cast<size_t>(place.layer_index)];
  return "layer " + std::to_string(layer_id) + " row " + std::to_string(place.row.value()) +
         " (column " + std::to_string(layout.slot(slot).column) + ", slot " +
         std::to_string(slot.value()) + ")";
}

}  // namespace engram
