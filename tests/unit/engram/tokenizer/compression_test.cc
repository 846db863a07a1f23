#include <gmock/gmock.h>

#include "tests/unit/engram/tokenizer/tokenizer_json.h"

namespace engram {
namespace {

TEST(NormaliseForCompressionTest, CompatibleFormsMarksAndCaseAreDropped) {
  EXPECT_EQ(NormaliseForCompression("Hello"), "hello");
  EXPECT_EQ(NormaliseForCompression("\u00c9t\u00c9"), "ete");
  EXPECT_EQ(NormaliseForCompression("\ufb01ne"), "fine");
  EXPECT_EQ(NormaliseForCompression("\u2168"), "ix");
  EXPECT_EQ(NormaliseForCompression("\uff21\uff22"), "ab");
  EXPECT_EQ(NormaliseForCompression("\u0130"), "i");                   // dotted capital I
  EXPECT_EQ(NormaliseForCompression("\u039f\u03a3"), "\u03bf\u03c3");  // no final sigma
  EXPECT_EQ(NormaliseForCompression("\ud55c"), "\u1112\u1161\u11ab");  // Hangul stays decomposed
}

TEST(NormaliseForCompressionTest, EveryKindOfMarkIsDropped) {
  EXPECT_EQ(NormaliseForCompression("a\u0301"), "a");            // Mn
  EXPECT_EQ(NormaliseForCompression("\u0915\u093f"), "\u0915");  // Mc
  EXPECT_EQ(NormaliseForCompression("a\u20dd"), "a");            // Me
  EXPECT_EQ(NormaliseForCompression("\u0301"), "");
}

TEST(NormaliseForCompressionTest, WhiteSpaceIsFoldedAndStrippedButALoneSpaceStays) {
  EXPECT_EQ(NormaliseForCompression(" the"), "the");
  EXPECT_EQ(NormaliseForCompression("a \t\r\n b"), "a b");
  EXPECT_EQ(NormaliseForCompression(" "), " ");
  EXPECT_EQ(NormaliseForCompression("\n\n\t"), " ");
  EXPECT_EQ(NormaliseForCompression("\u00a0"), " ");  // NFKC makes it a space
  EXPECT_EQ(NormaliseForCompression("\u2028"), "");   // white space, but not folded
  EXPECT_EQ(NormaliseForCompression("\u0301 "), " ");
  EXPECT_EQ(NormaliseForCompression("\ue000"), " ");
}

TEST(CompressVocabularyTest, TokensOfOneMeaningShareAnId) {
  auto json = SmallTokenizerJson();
  AddToken(json, "THE");
  AddToken(json, "<end>");
  const auto compression = CompressVocabulary(MakeTokenizer(json));
  ASSERT_TRUE(compression.has_value());
  const auto& table = compression->table;
  ASSERT_EQ(table.size(), 261u);
  EXPECT_EQ(table[257], table[258]);  // "the", " the"
  EXPECT_EQ(table[257], table[259]);  // "THE"
  EXPECT_EQ(table['a'], table['A']);
  EXPECT_EQ(table[' '], table['\t']);
  EXPECT_NE(table[256], table[257]);
  EXPECT_NE(table[260], table[257]);
}

TEST(CompressVocabularyTest, PartialCharactersKeepTheirOwnIds) {
  const auto compression = CompressVocabulary(MakeTokenizer(SmallTokenizerJson()));
  ASSERT_TRUE(compression.has_value());
  for (size_t a = 0x80; a < 0x100; ++a) {
    for (size_t b = 0x80; b < a; ++b) EXPECT_NE(compression->table[a], compression->table[b]);
  }
}

TEST(CompressVocabularyTest, IdsAreDenseInOrderOfFirstUse) {
  const auto compression = CompressVocabulary(MakeTokenizer(SmallTokenizerJson()));
  ASSERT_TRUE(compression.has_value());
  int32_t next = 0;
  for (const int32_t id : compression->table) {
    EXPECT_LE(id, next);
    if (id == next) ++next;
  }
  EXPECT_EQ(compression->compressed_vocab_size, next);
}

TEST(CompressVocabularyTest, DeepSeekV3HasThePublishedSizes) {
  const auto path = DeepSeekTokenizerPath();
  if (!path.has_value()) GTEST_SKIP() << kNoDeepSeekTokenizer;
  const auto tokenizer = Tokenizer::Load(*path);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
  EXPECT_EQ(tokenizer->vocabulary_size(), 128815);
  const auto compression = CompressVocabulary(*tokenizer);
  ASSERT_TRUE(compression.has_value());
  EXPECT_EQ(compression->compressed_vocab_size, 98627);
  EXPECT_EQ(compression->table[2], 2);  // the pad
}

}  // namespace
}  // namespace engram
