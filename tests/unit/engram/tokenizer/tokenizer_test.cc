#include "engram/tokenizer/tokenizer.h"

#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>

#include "tests/unit/engram/tokenizer/tokenizer_json.h"

namespace engram {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(TokenizerTest, LowestRankIsMergedFirstThenTheLeftmost) {
  auto json = SmallTokenizerJson();
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_THAT(tokenizer.Encode("the"), ElementsAre(257));
  EXPECT_THAT(tokenizer.Encode(" the"), ElementsAre(258));
  EXPECT_THAT(tokenizer.Encode("tthhee"), ElementsAre('t', 256, 'h', 'e', 'e'));
  // "aaa": the left pair.
  json["model"]["vocab"]["aa"] = 259;
  json["model"]["merges"].push_back("a a");
  EXPECT_THAT(MakeTokenizer(json).Encode("aaa"), ElementsAre(259, 'a'));
}

TEST(TokenizerTest, PieceThatIsATokenIsTakenWholeOnlyWithIgnoreMerges) {
  auto json = SmallTokenizerJson();
  json["model"]["vocab"]["fox"] = 259;  // No merge leads to it.
  EXPECT_THAT(MakeTokenizer(json).Encode("fox"), ElementsAre('f', 'o', 'x'));
  json["model"]["ignore_merges"] = true;
  EXPECT_THAT(MakeTokenizer(json).Encode("fox"), ElementsAre(259));
}

TEST(TokenizerTest, VocabularySizeIsTheHighestIdPlusOne) {
  auto json = SmallTokenizerJson();
  json["added_tokens"].push_back({{"id", 300}, {"content", "<end>"}, {"special", true}});
  const Tokenizer tokenizer = MakeTokenizer(json);
  EXPECT_EQ(tokenizer.vocabulary_size(), 301);
  EXPECT_EQ(tokenizer.TokenString(300), "<end>");
  EXPECT_EQ(tokenizer.TokenString(299), "");
  EXPECT_EQ(tokenizer.TokenBytes(299), "");
  EXPECT_EQ(tokenizer.TokenString(301), "");
  EXPECT_EQ(tokenizer.TokenString(-1), "");
}

TEST(TokenizerTest, TokenBytesUndoTheByteAlphabet) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  EXPECT_EQ(tokenizer.TokenString(258), "\u0120the");
  EXPECT_EQ(tokenizer.TokenBytes(258), " the");
  EXPECT_EQ(tokenizer.TokenBytes(0xC3), "\xC3");
}

TEST(TokenizerTest, InvalidUtf8IsEncodedAsReplacementCharacters) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  EXPECT_EQ(tokenizer.Encode("a\xFFz"), tokenizer.Encode("a\uFFFDz"));
  EXPECT_EQ(tokenizer.Encode("\xE4\xB8"), tokenizer.Encode("\uFFFD"));
}

TEST(TokenizerTest, DecodeJoinsBytesBeforeItReadsUtf8) {
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{0xC3, 0xA9}), "\u00e9");
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{0xC3, 'a'}), "\uFFFDa");
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{'a', 100000, -5, 'b'}), "ab");
  EXPECT_EQ(tokenizer.Decode(std::vector<TokenId>{}), "");
}

TEST(TokenizerTest, LongPieceWithoutBreaksIsEncodedToo) {
  // One piece of 600 kB: merging it must not be quadratic.
  const Tokenizer tokenizer = MakeTokenizer(SmallTokenizerJson());
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "the";
  const auto ids = tokenizer.Encode(text);
  EXPECT_EQ(ids.size(), 200000u);
  EXPECT_THAT(ids, testing::Each(257));
}

TEST(TokenizerTest, LongWhiteSpaceIsEncodedToo) {
  const auto path = DeepSeekTokenizerPath();
  if (!path.has_value()) GTEST_SKIP() << kNoDeepSeekTokenizer;
  const auto tokenizer = Tokenizer::Load(*path);
  ASSERT_TRUE(tokenizer.has_value());
  const std::string text = std::string(200000, ' ') + "x" + std::string(200000, '\n');
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text)), text);
}

TEST(TokenizerTest, PatternThatBacktracksWithoutEndStillGivesAllTheText) {
  auto json = SmallTokenizerJson();
  json["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"}, {"pattern", {{"Regex", "(a|aa)+$"}}}, {"behavior", "Isolated"}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const Tokenizer tokenizer = MakeTokenizer(json);
  const std::string text = std::string(60, 'a') + "b";
  EXPECT_EQ(tokenizer.Decode(tokenizer.Encode(text)), text);
}

TEST(TokenizerTest, ThreadsShareOneTokenizer) {
  const auto tokenizer = Tokenizer::Load(ENGRAM_TEST_DATA "/tiny_tokenizer.json");
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
  const std::string text = "The quick brown fox, 1 <|end|> na\u00efve \u4e2d\u6587.";
  const auto expected = tokenizer->Encode(text);
  std::vector<std::vector<TokenId>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] {
      for (int i = 0; i < 20; ++i) result = tokenizer->Encode(text);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(results, testing::Each(expected));
}

TEST(TokenizerTest, EmptyTextHasNoIds) {
  EXPECT_THAT(MakeTokenizer(SmallTokenizerJson()).Encode(""), IsEmpty());
}

TEST(TokenizerTest, LoadsAFileAndNamesOneThatIsNotThere) {
  const auto missing = Tokenizer::Load("no/such/tokenizer.json");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(missing.error().message(), testing::HasSubstr("no/such/tokenizer.json"));
  const auto folder = Tokenizer::Load(ENGRAM_TEST_DATA);
  ASSERT_FALSE(folder.has_value());
  EXPECT_EQ(folder.error().code(), StatusCode::kIo);
}

}  // namespace
}  // namespace engram
