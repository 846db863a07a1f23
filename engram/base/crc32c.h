// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), as in iSCSI (RFC 3720, appendix B.4).
#pragma once

#include <cstddef>
#include <cstdint>

namespace engram {

// CRC-32C of `size` bytes appended to data whose CRC-32C is `crc` (0 for none). Thread-safe.
// Uses the SSE4.2 instruction where the processor has it, else a table.
[[nodiscard]] uint32_t Crc32c(uint32_t crc, const void* data, size_t size);

// The table-driven fallback; equal to Crc32c for every input. For tests and other processors.
[[nodiscard]] uint32_t Crc32cPortable(uint32_t crc, const void* data, size_t size);

}  // namespace engram
