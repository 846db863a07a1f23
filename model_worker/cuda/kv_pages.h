// Which pages of the GPU's KV cache each sequence slot holds. Host logic, no CUDA.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/backend.h"

namespace engram::gpu {

// Positions in one page: one tile of the prefill kernel, and a 16 KiB read for a head of 128.
inline constexpr uint32_t kPageTokens = 64;

[[nodiscard]] constexpr uint32_t PagesFor(uint32_t tokens) {
  return (tokens + kPageTokens - 1) / kPageTokens;
}

// An entry of the page table [slots][pages_per_slot] that a step changes.
struct PageEntry {
  uint32_t index = 0;  // slot * pages_per_slot + place in the sequence
  uint32_t page = 0;
  friend bool operator==(const PageEntry&, const PageEntry&) = default;
};

// Thread-compatible. A page that a reset frees may be given out at once: the GPU runs steps in
// order, so nobody reads it any more when the next owner writes it.
class KvPages {
 public:
  KvPages(uint32_t slots, uint32_t pages_per_slot, uint32_t page_count);

  void Reset(uint32_t slot);
  // Gives every slot of the step the pages that its tokens need, and adds them to `entries`.
  // Precondition: slots and positions were checked.
  // ERRORS: kResourceExhausted; nothing changes.
  [[nodiscard]] Status Extend(std::span<const SequenceStep> steps, std::vector<PageEntry>* entries);

  [[nodiscard]] uint32_t pages_per_slot() const { return pages_per_slot_; }
  [[nodiscard]] uint32_t page_count() const { return page_count_; }
  [[nodiscard]] uint32_t free_count() const { return static_cast<uint32_t>(free_.size()); }

 private:
  uint32_t pages_per_slot_;
  uint32_t page_count_;
  std::vector<uint32_t> free_;                // a stack
  std::vector<std::vector<uint32_t>> slots_;  // [slots] pages in order of position
};

}  // namespace engram::gpu
