#include "engram/tokenizer/token_ids.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using ::testing::HasSubstr;

TEST(TokenIdsTest, ListsOfWholeNumbersAreRead) {
  EXPECT_EQ(ParseTokenIds("[]", "f").value(), std::vector<TokenId>());
  EXPECT_EQ(ParseTokenIds("[0, -3, 2147483647]", "f").value(),
            (std::vector<TokenId>{0, -3, 2147483647}));
  EXPECT_THAT(ParseTokenIds("[1, 2147483648]", "f").error().message(), HasSubstr("f: item 1"));
  EXPECT_FALSE(ParseTokenIds("[18446744073709551615]", "f").has_value());
  EXPECT_FALSE(ParseTokenIds("[true]", "f").has_value());
  EXPECT_FALSE(ParseTokenIds("[1] 2", "f").has_value());
}

}  // namespace
}  // namespace engram
