#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "engram/base/crc32c.h"
#include "model_worker/cuda/crc_factors.h"

namespace engram::gpu {
namespace {

// What the kernel does (landed_rows.cu), lane by lane.
uint32_t CrcByParts(uint32_t crc_before, const std::vector<uint8_t>& row) {
  const CrcParts parts = CutForCrc(static_cast<uint32_t>(row.size()));
  uint32_t sum = 0;
  for (uint32_t lane = 0; lane < kCrcLanes; ++lane) {
    uint32_t state = lane == 0 ? ~crc_before : 0;
    const uint32_t begin = lane * parts.part_bytes;
    const uint32_t end = std::min(begin + parts.part_bytes, parts.row_bytes);
    for (uint32_t at = begin; at < end; ++at) {
      state ^= row[at];
      for (int bit = 0; bit < 8; ++bit) {
        state = (state >> 1) ^ ((state & 1) != 0 ? kCrcPolynomial : 0);
      }
    }
    sum ^= CrcMultiply(state, parts.factors[lane]);
  }
  return ~sum;
}

TEST(CrcFactorsTest, PartsOfRowsOfEveryLengthGiveTheWholeRowsCrc) {
  std::mt19937 random(1);
  for (uint32_t bytes = 1; bytes <= 1100; ++bytes) {
    std::vector<uint8_t> row(bytes);
    for (uint8_t& byte : row) byte = static_cast<uint8_t>(random());
    const auto before = static_cast<uint32_t>(random());
    ASSERT_EQ(CrcByParts(before, row), Crc32c(before, row.data(), row.size())) << bytes;
  }
}

TEST(CrcFactorsTest, EveryByteIsInOnePart) {
  for (const uint32_t bytes : {1u, 31u, 32u, 33u, 264u, 4096u}) {
    const CrcParts parts = CutForCrc(bytes);
    EXPECT_GE(parts.part_bytes * kCrcLanes, bytes);
    EXPECT_LT((parts.part_bytes - 1) * kCrcLanes, bytes);
    EXPECT_EQ(parts.factors[kCrcLanes - 1], 1u << 31);  // nothing comes after it
  }
}

}  // namespace
}  // namespace engram::gpu
