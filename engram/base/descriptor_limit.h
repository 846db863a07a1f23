// How many files and connections this process may have open.
#pragma once

#include <cstdint>

namespace engram {

// Raises this process's own limit of open descriptors to the most that it is allowed to have, and
// returns that. Linux's usual limit of 1024 is kept for programs that use select(), which none of
// ours does. Thread-safe.
uint64_t RaiseDescriptorLimit();

}  // namespace engram
