#include "engram/tokenizer/utf8.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

std::string Repaired(std::string_view text) {
  std::string out;
  AppendRepaired(text, out);
  return out;
}

TEST(Utf8Test, WellFormedTextIsUnchanged) {
  const std::string text = "a\u00e9\u4e2d\U0001f600\uFFFD\U0010ffff\u07ff\u0800\ud7ff\ue000";
  EXPECT_EQ(Repaired(text), text);
}

// Expected values: Python 3.11, bytes.decode("utf-8", errors="replace").
TEST(Utf8Test, IllFormedSubpartsBecomeOneReplacementEachAsInPython) {
  EXPECT_EQ(Repaired("\xFF"), "\uFFFD");
  EXPECT_EQ(Repaired("\x80\x80"), "\uFFFD\uFFFD");
  EXPECT_EQ(Repaired("\xC0\xAF"), "\uFFFD\uFFFD");            // overlong
  EXPECT_EQ(Repaired("\xE0\x80\x80"), "\uFFFD\uFFFD\uFFFD");  // overlong
  EXPECT_EQ(Repaired("\xED\xA0\x80"), "\uFFFD\uFFFD\uFFFD");  // a surrogate
  EXPECT_EQ(Repaired("\xF4\x90\x80\x80"), "\uFFFD\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(Repaired("\xE4\xB8"), "\uFFFD");  // cut off: one
  EXPECT_EQ(Repaired("\xF0\x9F\x98"), "\uFFFD");
  EXPECT_EQ(Repaired("\xF0\x9F\x98z"), "\uFFFDz");
  EXPECT_EQ(Repaired("\xE4\xE4\xB8\xAD"), "\uFFFD\u4e2d");
  EXPECT_EQ(Repaired("\xF5\x80"), "\uFFFD\uFFFD");
}

TEST(Utf8Test, UnfinishedBytesAreThoseThatMayYetBecomeACharacter) {
  EXPECT_EQ(UnfinishedBytes(""), 0u);
  EXPECT_EQ(UnfinishedBytes("a"), 0u);
  EXPECT_EQ(UnfinishedBytes("\u4e2d"), 0u);
  EXPECT_EQ(UnfinishedBytes("a\xE4"), 1u);
  EXPECT_EQ(UnfinishedBytes("a\xE4\xB8"), 2u);
  EXPECT_EQ(UnfinishedBytes("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(UnfinishedBytes("\x98"), 0u);
  EXPECT_EQ(UnfinishedBytes("\xE0\x80"), 0u);  // can never be completed
  EXPECT_EQ(UnfinishedBytes("\xFF"), 0u);
}

TEST(Utf8Test, AppendAndNextAgreeOnEveryCharacter) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    AppendUtf8(c, text);
    const Utf8Step step = NextCharacter(text);
    ASSERT_TRUE(step.ok) << static_cast<uint32_t>(c);
    ASSERT_EQ(step.code_point, c);
    ASSERT_EQ(step.size, text.size());
  }
}

}  // namespace
}  // namespace engram
