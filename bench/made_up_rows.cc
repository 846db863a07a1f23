#include "bench/made_up_rows.h"

#include <algorithm>
#include <cstring>

namespace engram::bench {

uint64_t MadeUpWord(RowAddress address, uint32_t word) {
  uint64_t x = (address.value() << 8 | word) * 0x9e3779b97f4a7c15ull;
  x ^= x >> 29;
  return x * 0xbf58476d1ce4e5b9ull;
}

void MakeUpRow(RowAddress address, std::span<std::byte> row) {
  for (size_t at = 0; at < row.size(); at += sizeof(uint64_t)) {
    const uint64_t word = MadeUpWord(address, static_cast<uint32_t>(at / sizeof(uint64_t)));
    std::memcpy(row.data() + at, &word, std::min(sizeof(word), row.size() - at));
  }
}

}  // namespace engram::bench
