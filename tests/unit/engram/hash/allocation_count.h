// Counts operator new on this thread; linking allocation_count.cc replaces the global one.
#pragma once

#include <cstdint>

namespace engram {
[[nodiscard]] int64_t AllocationCount();
}  // namespace engram
