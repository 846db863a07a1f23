#include "engram/table/stored_row.h"

#include <array>
#include <bit>
#include <cstring>

#include "engram/base/crc32c.h"
#include "engram/table/table_layout.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace engram {
namespace {

static_assert(std::endian::native == std::endian::little,
              "stored rows and their CRC prefix are written in native order");

// What a row's CRC covers before its bytes.
#pragma pack(push, 1)
struct CrcPrefix {
  uint64_t version;
  uint32_t layer_id;
  uint64_t row;
};
#pragma pack(pop)
static_assert(sizeof(CrcPrefix) == 20);

uint32_t RowCrcPortable(TableVersion version, int32_t layer_id, RowId row, const std::byte* bytes,
                        uint32_t row_bytes) {
  const CrcPrefix prefix{version.value(), static_cast<uint32_t>(layer_id), row.value()};
  return Crc32c(Crc32c(0, &prefix, sizeof(prefix)), bytes, row_bytes);
}

#if defined(__x86_64__)
// The prefix goes in by registers and nothing else is in the loop, so that the processor overlaps
// the CRC chains of consecutive rows.
__attribute__((target("sse4.2"))) uint32_t RowCrcSse42(TableVersion version, int32_t layer_id,
                                                       RowId row, const std::byte* bytes,
                                                       uint32_t row_bytes) {
  uint64_t state = _mm_crc32_u64(0xffffffffu, version.value());
  state = _mm_crc32_u32(static_cast<uint32_t>(state), static_cast<uint32_t>(layer_id));
  state = _mm_crc32_u64(state, row.value());
  const std::byte* const end = bytes + (row_bytes & ~7u);
  for (; bytes != end; bytes += 8) {
    uint64_t word;
    std::memcpy(&word, bytes, sizeof(word));
    state = _mm_crc32_u64(state, word);
  }
  auto state32 = static_cast<uint32_t>(state);
  for (uint32_t left = row_bytes & 7u; left > 0; --left, ++bytes) {
    state32 = _mm_crc32_u8(state32, std::to_integer<uint8_t>(*bytes));
  }
  return ~state32;
}
#endif

}  // namespace

uint32_t RowCrc(TableVersion version, int32_t layer_id, RowId row, const std::byte* bytes,
                uint32_t row_bytes) {
#if defined(__x86_64__)
  static const bool has_sse42 = __builtin_cpu_supports("sse4.2") != 0;
  if (has_sse42) return RowCrcSse42(version, layer_id, row, bytes, row_bytes);
#endif
  return RowCrcPortable(version, layer_id, row, bytes, row_bytes);
}

void SealRow(TableVersion version, int32_t layer_id, RowId row, std::byte* stored,
             uint32_t row_bytes) {
  const uint32_t crc = RowCrc(version, layer_id, row, stored, row_bytes);
  std::memcpy(stored + row_bytes, &crc, sizeof(crc));
}

bool VerifyRow(TableVersion version, int32_t layer_id, RowId row, const std::byte* stored,
               uint32_t row_bytes) {
  static_assert(sizeof(uint32_t) == kRowCrcBytes);
  uint32_t crc;
  std::memcpy(&crc, stored + row_bytes, sizeof(crc));
  return crc == RowCrc(version, layer_id, row, stored, row_bytes);
}

}  // namespace engram
