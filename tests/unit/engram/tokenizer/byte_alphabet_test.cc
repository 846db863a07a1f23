#include "engram/tokenizer/byte_alphabet.h"

#include <set>

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(ByteAlphabetTest, EveryByteHasItsOwnCharacter) {
  const ByteAlphabet alphabet;
  std::set<std::string> spellings;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string& spelling = alphabet.Spelling(static_cast<uint8_t>(byte));
    spellings.insert(spelling);
    EXPECT_EQ(alphabet.Bytes(spelling), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(spellings.size(), 256u);
}

TEST(ByteAlphabetTest, SpellingsAreThePublishedOnes) {
  const ByteAlphabet alphabet;
  EXPECT_EQ(alphabet.Spelling('A'), "A");
  EXPECT_EQ(alphabet.Spelling(0), "\u0100");
  EXPECT_EQ(alphabet.Spelling(' '), "\u0120");
  EXPECT_EQ(alphabet.Spelling('\n'), "\u010A");
  EXPECT_EQ(alphabet.Spelling(0x7F), "\u0121");
  EXPECT_EQ(alphabet.Spelling(0xAD), "\u0143");
  EXPECT_EQ(alphabet.Spelling(0xE9), "\u00E9");
}

TEST(ByteAlphabetTest, CharacterOutsideTheAlphabetSpellsNothing) {
  const ByteAlphabet alphabet;
  EXPECT_EQ(alphabet.Bytes("a b"), std::nullopt);
  EXPECT_EQ(alphabet.Bytes("\u0144"), std::nullopt);
  EXPECT_EQ(alphabet.Bytes("<\uff5cend\uff5c>"), std::nullopt);
  EXPECT_EQ(alphabet.Bytes("\xFF"), std::nullopt);
  EXPECT_EQ(alphabet.Bytes(""), "");
}

}  // namespace
}  // namespace engram
