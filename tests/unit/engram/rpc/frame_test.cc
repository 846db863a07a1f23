#include "engram/rpc/frame.h"

#include <string>

#include <gtest/gtest.h>

namespace engram {
namespace {

// What the peer gets when a reply carries `text` as its error message.
std::string Carried(const std::string& text) {
  proto::Frame frame;
  frame.set_call_id(1);
  frame.set_code(proto::IO);
  frame.set_message(ErrorMessageText(text));
  proto::Frame received;
  EXPECT_TRUE(received.ParseFromString(frame.SerializeAsString()));
  return received.message();
}

TEST(ErrorMessageTextTest, ValidTextIsUnchanged) {
  const std::string text = "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80";
  EXPECT_EQ(Carried(text), text);
  EXPECT_EQ(Carried(""), "");
}

TEST(ErrorMessageTextTest, BytesThatAreNoTextBecomeQuestionMarks) {
  EXPECT_EQ(Carried("no file \xff\xfe here"), "no file ?? here");
  EXPECT_EQ(Carried("cut \xe2\x82"), "cut ??");
  EXPECT_EQ(Carried("\xc0\xaf"), "??");            // longer than needed
  EXPECT_EQ(Carried("\xed\xa0\x80"), "???");       // a surrogate
  EXPECT_EQ(Carried("\xf4\x90\x80\x80"), "????");  // above U+10FFFF
  EXPECT_EQ(Carried("\xe2(\xa1"), "?(?");
}

TEST(ErrorMessageTextTest, ALongTextIsCutBetweenCharacters) {
  std::string text = "x";
  while (text.size() < 2 * kErrorMessageBytesMax) text += "\xc3\xa9";
  const std::string carried = Carried(text);
  EXPECT_EQ(carried, text.substr(0, kErrorMessageBytesMax - 1));
}

}  // namespace
}  // namespace engram
