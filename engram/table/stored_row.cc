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
  return Crc32c(RowPlaceCrc(version, layer_id, row), bytes, row_bytes);
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) inline uint64_t CrcOfPrefix(TableVersion version,
                                                              int32_t layer_id, RowId row) {
  uint64_t state = _mm_crc32_u64(0xffffffffu, version.value());
  state = _mm_crc32_u32(static_cast<uint32_t>(state), static_cast<uint32_t>(layer_id));
  return _mm_crc32_u64(state, row.value());
}

__attribute__((target("sse4.2"))) inline uint64_t CrcOfWord(uint64_t state,
                                                            const std::byte* bytes) {
  uint64_t word;
  std::memcpy(&word, bytes, sizeof(word));
  return _mm_crc32_u64(state, word);
}

// The CRC, once the whole words of the row are in `state`.
__attribute__((target("sse4.2"))) inline uint32_t CrcOfRest(uint64_t state, const std::byte* bytes,
                                                            uint32_t row_bytes) {
  auto state32 = static_cast<uint32_t>(state);
  for (uint32_t at = row_bytes & ~7u; at < row_bytes; ++at) {
    state32 = _mm_crc32_u8(state32, std::to_integer<uint8_t>(bytes[at]));
  }
  return ~state32;
}

__attribute__((target("sse4.2"))) uint32_t RowCrcSse42(TableVersion version, int32_t layer_id,
                                                       RowId row, const std::byte* bytes,
                                                       uint32_t row_bytes) {
  uint64_t state = CrcOfPrefix(version, layer_id, row);
  for (uint32_t at = 0; at < (row_bytes & ~7u); at += 8) state = CrcOfWord(state, bytes + at);
  return CrcOfRest(state, bytes, row_bytes);
}

constexpr size_t kCrcsAtOnce = 4;

// CRCs of kCrcsAtOnce rows. Each in a variable of its own, so that all stay in registers.
__attribute__((target("sse4.2"))) void RowCrcsSse42(TableVersion version, const PlacedRow* rows,
                                                    uint32_t row_bytes, uint32_t* crcs) {
  const std::byte* const bytes[kCrcsAtOnce] = {rows[0].stored, rows[1].stored, rows[2].stored,
                                               rows[3].stored};
  uint64_t state0 = CrcOfPrefix(version, rows[0].layer_id, rows[0].row);
  uint64_t state1 = CrcOfPrefix(version, rows[1].layer_id, rows[1].row);
  uint64_t state2 = CrcOfPrefix(version, rows[2].layer_id, rows[2].row);
  uint64_t state3 = CrcOfPrefix(version, rows[3].layer_id, rows[3].row);
  for (uint32_t at = 0; at < (row_bytes & ~7u); at += 8) {
    state0 = CrcOfWord(state0, bytes[0] + at);
    state1 = CrcOfWord(state1, bytes[1] + at);
    state2 = CrcOfWord(state2, bytes[2] + at);
    state3 = CrcOfWord(state3, bytes[3] + at);
  }
  crcs[0] = CrcOfRest(state0, bytes[0], row_bytes);
  crcs[1] = CrcOfRest(state1, bytes[1], row_bytes);
  crcs[2] = CrcOfRest(state2, bytes[2], row_bytes);
  crcs[3] = CrcOfRest(state3, bytes[3], row_bytes);
}
#endif

bool HasSse42() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("sse4.2") != 0;
  return has;
#else
  return false;
#endif
}

uint32_t StoredCrc(const std::byte* stored, uint32_t row_bytes) {
  uint32_t crc;
  static_assert(sizeof(crc) == kRowCrcBytes);
  std::memcpy(&crc, stored + row_bytes, sizeof(crc));
  return crc;
}

}  // namespace

uint32_t RowPlaceCrc(TableVersion version, int32_t layer_id, RowId row) {
  const CrcPrefix prefix{version.value(), static_cast<uint32_t>(layer_id), row.value()};
  return Crc32c(0, &prefix, sizeof(prefix));
}

uint32_t RowCrc(TableVersion version, int32_t layer_id, RowId row, const std::byte* bytes,
                uint32_t row_bytes) {
#if defined(__x86_64__)
  if (HasSse42()) return RowCrcSse42(version, layer_id, row, bytes, row_bytes);
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
  return StoredCrc(stored, row_bytes) == RowCrc(version, layer_id, row, stored, row_bytes);
}

void VerifyRows(TableVersion version, std::span<const PlacedRow> rows, uint32_t row_bytes,
                uint8_t* right) {
  size_t i = 0;
#if defined(__x86_64__)
  for (; HasSse42() && i + kCrcsAtOnce <= rows.size(); i += kCrcsAtOnce) {
    uint32_t crcs[kCrcsAtOnce];
    RowCrcsSse42(version, &rows[i], row_bytes, crcs);
    for (size_t k = 0; k < kCrcsAtOnce; ++k) {
      right[i + k] = StoredCrc(rows[i + k].stored, row_bytes) == crcs[k] ? 1 : 0;
    }
  }
#endif
  for (; i < rows.size(); ++i) {
    const PlacedRow& row = rows[i];
    right[i] = VerifyRow(version, row.layer_id, row.row, row.stored, row_bytes) ? 1 : 0;
  }
}

}  // namespace engram
