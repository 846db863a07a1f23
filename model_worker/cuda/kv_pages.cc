#include "model_worker/cuda/kv_pages.h"

#include <string>

#include "engram/base/check.h"

namespace engram::gpu {

KvPages::KvPages(uint32_t slots, uint32_t pages_per_slot, uint32_t page_count)
    : pages_per_slot_(pages_per_slot), page_count_(page_count), slots_(slots) {
  free_.reserve(page_count);
  for (uint32_t page = page_count; page > 0; --page) free_.push_back(page - 1);
}

void KvPages::Reset(uint32_t slot) {
  if (slot >= slots_.size()) return;
  free_.insert(free_.end(), slots_[slot].rbegin(), slots_[slot].rend());
  slots_[slot].clear();
}

Status KvPages::Extend(std::span<const SequenceStep> steps, std::vector<PageEntry>* entries) {
  size_t wanted = 0;
  for (const SequenceStep& step : steps) {
    const uint32_t pages = PagesFor(step.position + static_cast<uint32_t>(step.tokens.size()));
    const size_t held = slots_[step.slot.value()].size();
    if (pages > held) wanted += pages - held;
  }
  if (wanted > free_.size()) {
    return {StatusCode::kResourceExhausted,
            "the KV cache of " + std::to_string(page_count_) + " pages of " +
                std::to_string(kPageTokens) + " positions is full: the step needs " +
                std::to_string(wanted) + " more, " + std::to_string(free_.size()) +
                " are free; end a sequence, or give the backend a larger KV cache"};
  }
  for (const SequenceStep& step : steps) {
    const uint32_t pages = PagesFor(step.position + static_cast<uint32_t>(step.tokens.size()));
    ENGRAM_CHECK(pages <= pages_per_slot_);
    std::vector<uint32_t>& held = slots_[step.slot.value()];
    while (held.size() < pages) {
      const auto place = static_cast<uint32_t>(held.size());
      entries->push_back({step.slot.value() * pages_per_slot_ + place, free_.back()});
      held.push_back(free_.back());
      free_.pop_back();
    }
  }
  return {};
}

}  // namespace engram::gpu
