#include "engram/tokenizer/added_token_finder.h"

#include <string>

#include <gmock/gmock.h>

namespace engram {

void PrintTo(const TextStretch& stretch, std::ostream* out) {
  *out << '"' << stretch.text << "\":" << stretch.id;
}

namespace {

using testing::ElementsAre;
using testing::IsEmpty;

testing::Matcher<TextStretch> Stretch(const std::string& text, TokenId id) {
  return testing::AllOf(testing::Field(&TextStretch::text, text),
                        testing::Field(&TextStretch::id, id));
}

class AddedTokenFinderTest : public testing::Test {
 protected:
  void Add(TokenId id, const std::string& content, AddedToken flags = {}) {
    flags.id = id;
    finder_.Add(content, flags);
  }
  std::vector<TextStretch> Cut(std::string_view text) const {
    std::vector<TextStretch> out;
    finder_.Cut(text, out);
    return out;
  }
  AddedTokenFinder finder_;
};

TEST_F(AddedTokenFinderTest, WithoutTokensTheTextStaysWhole) {
  EXPECT_THAT(Cut("a b"), ElementsAre(Stretch("a b", -1)));
  EXPECT_THAT(Cut(""), IsEmpty());
}

TEST_F(AddedTokenFinderTest, LongestTokenAtAPlaceWins) {
  Add(1, "<a>");
  Add(2, "<a><b>");
  EXPECT_THAT(Cut("x<a><b><a>y"), ElementsAre(Stretch("x", -1), Stretch("<a><b>", 2),
                                              Stretch("<a>", 1), Stretch("y", -1)));
  EXPECT_THAT(Cut("<a><b"), ElementsAre(Stretch("<a>", 1), Stretch("<b", -1)));
}

TEST_F(AddedTokenFinderTest, LeftmostTokenWinsOverALongerLaterOne) {
  Add(1, "ab");
  Add(2, "bcd");
  EXPECT_THAT(Cut("abcd"), ElementsAre(Stretch("ab", 1), Stretch("cd", -1)));
}

TEST_F(AddedTokenFinderTest, StripTakesUnicodeWhiteSpaceOnItsSides) {
  Add(1, "<l>", {.lstrip = true});
  Add(2, "<r>", {.rstrip = true});
  EXPECT_THAT(Cut("a \u3000<l> b"),
              ElementsAre(Stretch("a", -1), Stretch(" \u3000<l>", 1), Stretch(" b", -1)));
  EXPECT_THAT(Cut("a <r>\u00a0\nb"),
              ElementsAre(Stretch("a ", -1), Stretch("<r>\u00a0\n", 2), Stretch("b", -1)));
  // White space that one token took is not there for the next.
  EXPECT_THAT(Cut("<r>  <l>"), ElementsAre(Stretch("<r>  ", 2), Stretch("<l>", 1)));
}

TEST_F(AddedTokenFinderTest, SingleWordTokenIsNotFoundInsideAWord) {
  Add(1, "cat", {.single_word = true});
  EXPECT_THAT(Cut("cat"), ElementsAre(Stretch("cat", 1)));
  EXPECT_THAT(Cut("(cat)"), ElementsAre(Stretch("(", -1), Stretch("cat", 1), Stretch(")", -1)));
  for (const char* text : {"cats", "concat", "cat_", "\u00e9cat", "cat\u0301", "cat9"}) {
    EXPECT_THAT(Cut(text), ElementsAre(Stretch(text, -1)));
  }
}

TEST_F(AddedTokenFinderTest, TokenThatBeginsInStrippedWhiteSpaceIsFound) {
  Add(1, "<r>", {.rstrip = true});
  Add(2, " x");
  EXPECT_THAT(Cut("<r> xy"), ElementsAre(Stretch("<r> ", 1), Stretch("x", 2), Stretch("y", -1)));
}

}  // namespace
}  // namespace engram
