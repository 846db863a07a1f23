// Whether whole tables fit in a GPU's memory.
#pragma once

#include <cstdint>

#include "engram/base/status.h"

namespace engram::gpu {

// Left free beside tables, for what CUDA takes later: graphs of decode steps, and products of a
// shape that comes first while requests run.
inline constexpr uint64_t kTableSpareBytes = uint64_t{256} << 20;

// ERRORS: kResourceExhausted with the bytes needed and free.
[[nodiscard]] Status CheckTablesFit(uint64_t table_bytes, uint64_t free_bytes);

}  // namespace engram::gpu
