// How the CRCs of a row's parts become the row's: what a warp that checks rows shares out.
#pragma once

#include <array>
#include <cstdint>

namespace engram::gpu {

inline constexpr uint32_t kCrcLanes = 32;  // a warp's

// A row of `row_bytes` is cut into kCrcLanes parts of part_bytes, the last ones shorter or empty.
struct CrcParts {
  uint32_t row_bytes = 0;
  uint32_t part_bytes = 0;
  // Times this, modulo the polynomial, a part's CRC state is what it is at the row's end: the row's
  // is the sum (exclusive or) of all. x^(8 * bytes after the part), bits reflected.
  std::array<uint32_t, kCrcLanes> factors{};
};

// CRC-32C's polynomial without its highest term, bits reflected (engram/base/crc32c.h).
inline constexpr uint32_t kCrcPolynomial = 0x82f63b78u;

// a * b modulo the polynomial, bits reflected: bit 31 is x^0. (As crc32_combine of zlib does it:
// https://github.com/madler/zlib/blob/v1.3/crc32.c, multmodp.)
constexpr uint32_t CrcMultiply(uint32_t a, uint32_t b) {
  uint32_t product = 0;
  for (uint32_t bit = 1u << 31; bit != 0; bit >>= 1) {
    if ((a & bit) != 0) product ^= b;
    b = (b >> 1) ^ ((b & 1) != 0 ? kCrcPolynomial : 0);
  }
  return product;
}

[[nodiscard]] constexpr CrcParts CutForCrc(uint32_t row_bytes) {
  CrcParts parts;
  parts.row_bytes = row_bytes;
  parts.part_bytes = (row_bytes + kCrcLanes - 1) / kCrcLanes;
  uint32_t power = 1u << 31;  // x^0
  uint32_t after = 0;
  for (uint32_t lane = kCrcLanes; lane-- > 0;) {
    const uint32_t end = (lane + 1) * parts.part_bytes;
    const uint32_t wanted = end >= row_bytes ? 0 : row_bytes - end;
    for (; after < wanted; ++after) power = CrcMultiply(power, 1u << 23);  // x^8
    parts.factors[lane] = power;
  }
  return parts;
}

}  // namespace engram::gpu
