#include "tools/row_check.h"

#include <algorithm>
#include <cstring>

#include "tools/row_text.h"
#include "tools/seeded_values.h"

namespace engram {
namespace {

constexpr uint32_t kBlockRows = 8192;
static_assert(kBlockRows <= kLookupRowsMax);

}  // namespace

void RowCheck::Record(RowAddress address, StatusCode code, const std::string& what) {
  if (result_.first_failure == StatusCode::kOk) result_.first_failure = code;
  if (result_.failures.size() < kFailuresShown) {
    result_.failures.push_back(RowText(*layout_, address) + ": " + what);
  }
}

void RowCheck::ReadAndCompare() {
  const size_t row_bytes = layout_->row_bytes();
  found_.resize(expected_.size());
  statuses_.assign(addresses_.size(), StatusCode::kOk);
  const Status status = nodes_->ReadRows(addresses_, found_, statuses_);
  for (size_t i = 0; i < addresses_.size(); ++i) {
    if (statuses_[i] != StatusCode::kOk) {
      ++result_.rows_failed;
      const std::string code(StatusCodeName(statuses_[i]));
      Record(addresses_[i], statuses_[i], statuses_[i] == status.code() ? status.ToString() : code);
    } else if (std::memcmp(found_.data() + i * row_bytes, expected_.data() + i * row_bytes,
                           row_bytes) != 0) {
      ++result_.rows_wrong;
      Record(addresses_[i], StatusCode::kCorrupt, "its bytes are not the checkpoint's");
    } else {
      ++result_.rows_verified;
    }
  }
}

Status RowCheck::CheckAll(const OnProgress& on_progress) {
  for (uint32_t s = 0; s < layout_->slot_count(); ++s) {
    const SlotRange& slot = layout_->slot(SlotIndex(s));
    for (uint32_t first = 0; first < slot.row_count; first += kBlockRows) {
      const uint32_t count = std::min(kBlockRows, slot.row_count - first);
      addresses_.resize(count);
      for (uint32_t i = 0; i < count; ++i) {
        addresses_[i] = RowAddress((uint64_t{s} << layout_->slot_shift()) + first + i);
      }
      expected_.resize(size_t{count} * layout_->row_bytes());
      ENGRAM_RETURN_IF_ERROR(checkpoint_->Read(
          slot.layer_index, RowId(slot.first_row.value() + first), count, expected_));
      ReadAndCompare();
      on_progress(result_);
      if (result_.rows_failed + result_.rows_wrong >= kFailuresMax) return Status();
    }
  }
  return Status();
}

Status RowCheck::CheckSample(uint64_t count, uint64_t seed, const OnProgress& on_progress) {
  uint64_t rows_total = 0;
  for (int32_t l = 0; l < layout_->layer_count(); ++l) rows_total += layout_->row_count(l);
  const size_t row_bytes = layout_->row_bytes();
  for (uint64_t done = 0; done < count;) {
    const auto block = static_cast<size_t>(std::min<uint64_t>(kBlockRows, count - done));
    addresses_.clear();
    expected_.resize(block * row_bytes);
    for (size_t i = 0; i < block; ++i) {
      uint64_t row = SeededWord(seed, done + i) % rows_total;
      int32_t layer = 0;
      while (row >= layout_->row_count(layer)) row -= layout_->row_count(layer++);
      const auto address = layout_->AddressOf(layer, RowId(row));
      if (!address.has_value()) return address.error();
      addresses_.push_back(*address);
      ENGRAM_RETURN_IF_ERROR(checkpoint_->Read(
          layer, RowId(row), 1, std::span(expected_).subspan(i * row_bytes, row_bytes)));
    }
    ReadAndCompare();
    done += block;
    on_progress(result_);
    if (result_.rows_failed + result_.rows_wrong >= kFailuresMax) return Status();
  }
  return Status();
}

}  // namespace engram
