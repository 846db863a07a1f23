#include <gtest/gtest.h>

#include "tests/unit/engram/tokenizer/tokenizer_json.h"

namespace engram {
namespace {

TEST(StreamDecoderTest, HoldsBackACharacterUntilItIsWhole) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  StreamDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Next(0xF0), "");
  EXPECT_EQ(decoder.Next(0x9F), "");
  EXPECT_EQ(decoder.Next(0x98), "");
  EXPECT_EQ(decoder.Next(0x80), "\U0001f600");
  EXPECT_EQ(decoder.Next(258), " the");
  EXPECT_EQ(decoder.Finish(), "");
}

TEST(StreamDecoderTest, BytesThatBecomeNoCharacterAreReplacedAtOnce) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  StreamDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Next(0xFF), "\uFFFD");
  EXPECT_EQ(decoder.Next(0xE4), "");
  EXPECT_EQ(decoder.Next('a'), "\uFFFDa");
}

TEST(StreamDecoderTest, FinishGivesUnfinishedBytesAsOneReplacement) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  StreamDecoder decoder(&tokenizer);
  EXPECT_EQ(decoder.Next(0xE4), "");
  EXPECT_EQ(decoder.Next(0xB8), "");
  EXPECT_EQ(decoder.Finish(), "\uFFFD");
  EXPECT_EQ(decoder.Finish(), "");
}

}  // namespace
}  // namespace engram
