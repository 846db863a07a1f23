#include "tools/row_check.h"

#include <algorithm>
#include <cstring>

#include "engram/base/check.h"
#include "tools/row_text.h"
#include "tools/seeded_values.h"

namespace engram {
namespace {

constexpr uint32_t kBlockRows = 32768;
static_assert(kBlockRows <= kLookupRowsMax);

}  // namespace

void RowCheck::Record(RowAddress address, StatusCode code, const std::string& what) {
  if (result_.first_failure == StatusCode::kOk) result_.first_failure = code;
  if (result_.failures.size() < kFailuresShown) {
    result_.failures.push_back(RowText(*layout_, address) + ": " + what);
  }
}

Status RowCheck::Add(SlotIndex slot, uint32_t first, uint32_t count) {
  const SlotRange& range = layout_->slot(slot);
  const uint64_t address = (uint64_t{slot.value()} << layout_->slot_shift()) + first;
  for (uint32_t i = 0; i < count; ++i) addresses_.emplace_back(address + i);
  const size_t before = expected_.size();
  expected_.resize(before + size_t{count} * layout_->row_bytes());
  return checkpoint_->Read(range.layer_index, RowId(range.first_row.value() + first), count,
                           std::span(expected_).subspan(before));
}

bool RowCheck::ReadAndCompare() {
  const size_t row_bytes = layout_->row_bytes();
  found_.resize(expected_.size());
  statuses_.assign(addresses_.size(), StatusCode::kOk);
  const Status status = nodes_->ReadRows(addresses_, found_, statuses_);
  bool explained = false;  // `status` is of the first row that failed
  for (size_t i = 0; i < addresses_.size(); ++i) {
    if (statuses_[i] != StatusCode::kOk) {
      ++result_.rows_failed;
      const bool first = !explained && statuses_[i] == status.code();
      Record(addresses_[i], statuses_[i],
             first ? status.ToString() : std::string(StatusCodeName(statuses_[i])));
      explained |= first;
    } else if (std::memcmp(found_.data() + i * row_bytes, expected_.data() + i * row_bytes,
                           row_bytes) != 0) {
      ++result_.rows_wrong;
      Record(addresses_[i], StatusCode::kCorrupt, "its bytes are not the checkpoint's");
    } else {
      ++result_.rows_verified;
    }
  }
  addresses_.clear();
  expected_.clear();
  return result_.rows_failed + result_.rows_wrong < kFailuresMax;
}

Status RowCheck::CheckAll(const OnProgress& on_progress) {
  for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
    const uint32_t rows = layout_->slot(SlotIndex(s)).row_count;
    for (uint32_t first = 0; first < rows;) {
      const auto room = kBlockRows - static_cast<uint32_t>(addresses_.size());
      const uint32_t count = std::min(room, rows - first);
      ENGRAM_RETURN_IF_ERROR(Add(SlotIndex(s), first, count));
      first += count;
      if (addresses_.size() < kBlockRows) continue;
      if (!ReadAndCompare()) return Status();
      on_progress(result_);
    }
  }
  (void)ReadAndCompare();
  return Status();
}

Status RowCheck::CheckSample(uint64_t count, uint64_t seed, const OnProgress& on_progress) {
  uint64_t rows_total = 0;
  for (int32_t l = 0; l < layout_->layer_count(); ++l) rows_total += layout_->row_count(l);
  ENGRAM_CHECK(rows_total != 0);  // a layout has rows
  for (uint64_t i = 0; i < count; ++i) {
    uint64_t row = SeededWord(seed, i) % rows_total;
    int32_t layer = 0;
    while (row >= layout_->row_count(layer)) row -= layout_->row_count(layer++);
    const auto address = layout_->AddressOf(layer, RowId(row));
    if (!address.has_value()) return address.error();
    ENGRAM_RETURN_IF_ERROR(Add(layout_->SlotOf(*address), layout_->RowInSlot(*address), 1));
    if (addresses_.size() < kBlockRows && i + 1 < count) continue;
    if (!ReadAndCompare()) return Status();
    on_progress(result_);
  }
  return Status();
}

}  // namespace engram
