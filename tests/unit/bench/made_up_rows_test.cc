#include "bench/made_up_rows.h"

#include <cstring>
#include <set>
#include <vector>

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

TEST(MadeUpRowsTest, RowIsItsWordsAndTheLastMayBeCutOff) {
  constexpr RowAddress kAddress(77);
  std::vector<std::byte> row(21, std::byte{0xee});
  MakeUpRow(kAddress, {row.data(), 20});
  uint64_t word = 0;
  std::memcpy(&word, row.data() + 8, sizeof(word));
  EXPECT_EQ(word, MadeUpWord(kAddress, 1));
  const uint64_t last = MadeUpWord(kAddress, 2);
  EXPECT_EQ(std::memcmp(row.data() + 16, &last, 4), 0);
  EXPECT_EQ(row[20], std::byte{0xee});
}

TEST(MadeUpRowsTest, NeighboursDifferInEveryWord) {
  std::set<uint64_t> words;
  for (uint64_t address = 0; address < 100; ++address) {
    for (uint32_t word = 0; word < 33; ++word) words.insert(MadeUpWord(RowAddress(address), word));
  }
  EXPECT_EQ(words.size(), 3300u);
}

}  // namespace
}  // namespace engram::bench
