// What a memory node's table memory is used for, in bytes.
#pragma once

#include <cstdint>

namespace engram {

struct SlotStoreFigures {
  uint64_t memory_bytes_max = 0;
  uint64_t region_bytes = 0;     // allocated from the transport: what --memory limits
  uint64_t free_bytes = 0;       // of region_bytes: in no slot
  uint64_t held_bytes = 0;       // of assigned slots that have memory, loaded or not
  uint64_t ready_bytes = 0;      // of held_bytes: loaded, checked and served
  uint64_t unplaced_bytes = 0;   // of assigned slots that wait for memory: not of region_bytes
  uint64_t leaving_bytes = 0;    // of slots assigned no longer, which readers may still use
  uint64_t waiting_bytes = 0;    // of dropped versions, ended loads, replaced slots, likewise
  uint64_t replacing_bytes = 0;  // of replacements that wait for their rows
  uint32_t regions = 0;
  uint32_t huge_regions = 0;
};

}  // namespace engram
