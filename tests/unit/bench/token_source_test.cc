#include "bench/token_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class TokenSourceTest : public ::testing::Test {
 protected:
  std::filesystem::path File(const std::string& text) {
    const std::filesystem::path file = scratch_.path() / "ids.json";
    std::ofstream(file) << text;
    return file;
  }

 private:
  test::ScratchDir scratch_;
};

TEST_F(TokenSourceTest, AStreamIsReadInOrderWithWhatStoodBeforeIt) {
  auto source = TokenSource::Open(File("[7, 1, 5, 3, 9]"), 2);
  ASSERT_TRUE(source.has_value()) << source.error().ToString();
  EXPECT_EQ(source->vocabulary(), 10);
  EXPECT_EQ(source->length(), 5u);
  TokenRun run = source->Next(2);
  EXPECT_THAT(run.tokens, ElementsAre(7, 1));
  EXPECT_THAT(run.history, IsEmpty());
  run = source->Next(2);
  EXPECT_THAT(run.tokens, ElementsAre(5, 3));
  EXPECT_THAT(run.history, ElementsAre(7, 1));
  run = source->Next(2);  // one is left: from the start again, where nothing stood before
  EXPECT_THAT(run.tokens, ElementsAre(7, 1));
  EXPECT_THAT(run.history, IsEmpty());
  source->Rewind();
  EXPECT_THAT(source->Next(1).tokens, ElementsAre(7));
}

TEST_F(TokenSourceTest, AStreamThatCannotBeReadIsRefused) {
  EXPECT_THAT(TokenSource::Open(File("[1, 2]"), 3).error().message(), HasSubstr("2 tokens"));
  EXPECT_EQ(TokenSource::Open(File("[1, -2]"), 1).error().code(), StatusCode::kMalformed);
  EXPECT_EQ(TokenSource::Open(File("{}"), 1).error().code(), StatusCode::kMalformed);
  EXPECT_EQ(TokenSource::Open("/no/such/file", 1).error().code(), StatusCode::kNotFound);
}

TEST(RandomTokensTest, AreOfTheVocabularyAndTheSeed) {
  TokenSource one = TokenSource::Random(10, 3);
  TokenSource same = TokenSource::Random(10, 3);
  TokenSource other = TokenSource::Random(10, 4);
  const TokenRun run = one.Next(64);
  const std::vector<TokenId> ids(run.tokens.begin(), run.tokens.end());
  for (const TokenId id : ids) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, 10);
  }
  const TokenRun again = same.Next(64);
  EXPECT_TRUE(std::equal(ids.begin(), ids.end(), again.tokens.begin()));
  const TokenRun others = other.Next(64);
  EXPECT_FALSE(std::equal(ids.begin(), ids.end(), others.tokens.begin()));
}

}  // namespace
}  // namespace engram::bench
