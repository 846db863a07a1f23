// The rows that benchmarks read: made up from their address, so that a wrong one is seen without
// keeping a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engram/base/strong_id.h"

namespace engram::bench {

// Word i of row `address`: a fast, invertible mix.
[[nodiscard]] uint64_t MadeUpWord(RowAddress address, uint32_t word);

// The whole row, of any length; what is left of the last word is cut off.
void MakeUpRow(RowAddress address, std::span<std::byte> row);

}  // namespace engram::bench
