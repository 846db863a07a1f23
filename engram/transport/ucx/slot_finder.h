// Row address -> bytes in a memory node, in few cache lines.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "engram/transport/row_copy.h"
#include "engram/transport/served_slots.h"

namespace engram {

// Immutable; thread-safe. What it finds is ServedSlots' at the moment of the call.
class SlotFinder {
 public:
  explicit SlotFinder(std::shared_ptr<const ServedSlots> slots)
      : slots_(std::move(slots)),
        slot_shift_(slots_->layout().slot_shift()),
        row_mask_(slots_->layout().slot_rows() - 1),
        row_stride_(slots_->layout().row_stride()) {
    const TableLayout& layout = slots_->layout();
    row_counts_.reserve(layout.slot_count());
    for (uint32_t s = 0; s < layout.slot_count(); ++s) {
      row_counts_.push_back(layout.slot(SlotIndex(s)).row_count);
    }
  }

  [[nodiscard]] const ServedSlots& slots() const { return *slots_; }
  [[nodiscard]] uint32_t row_stride() const { return row_stride_; }

  // kInvalidArgument: no such row; kNotOwned: not on this node.
  [[nodiscard]] FoundRow Find(RowAddress address) const {
    const uint64_t slot = address.value() >> slot_shift_;
    const uint32_t row = static_cast<uint32_t>(address.value()) & row_mask_;
    if (slot >= row_counts_.size() || row >= row_counts_[slot]) {
      return {nullptr, StatusCode::kInvalidArgument};
    }
    const std::byte* const rows = slots_->Rows(SlotIndex(static_cast<uint32_t>(slot)));
    if (rows == nullptr) return {nullptr, StatusCode::kNotOwned};
    return {rows + uint64_t{row} * row_stride_, StatusCode::kOk};
  }

 private:
  const std::shared_ptr<const ServedSlots> slots_;
  const uint32_t slot_shift_;
  const uint32_t row_mask_;
  const uint32_t row_stride_;
  std::vector<uint32_t> row_counts_;  // [slots], denser than the layout's ranges
};

}  // namespace engram
