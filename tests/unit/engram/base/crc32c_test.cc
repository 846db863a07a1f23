#include "engram/base/crc32c.h"

#include <cstring>
#include <string>

#include <gtest/gtest.h>

namespace engram {
namespace {

// RFC 3720, appendix B.4.
TEST(Crc32cTest, MatchesPublishedVectors) {
  EXPECT_EQ(Crc32c(0, std::string(32, '\0').data(), 32), 0x8a9136aau);
  EXPECT_EQ(Crc32c(0, std::string(32, '\xff').data(), 32), 0x62a8ab43u);
  std::string ascending(32, '\0');
  for (int i = 0; i < 32; ++i) ascending[static_cast<size_t>(i)] = static_cast<char>(i);
  EXPECT_EQ(Crc32c(0, ascending.data(), 32), 0x46dd794eu);
  EXPECT_EQ(Crc32c(0, "123456789", 9), 0xe3069283u);
}

TEST(Crc32cTest, EmptyInputGivesTheCrcBack) { EXPECT_EQ(Crc32c(0x1234u, nullptr, 0), 0x1234u); }

TEST(Crc32cTest, PiecesGiveTheCrcOfTheWhole) {
  const std::string text = "an n-gram names a row, and the row names its place";
  for (size_t split = 0; split <= text.size(); ++split) {
    const uint32_t head = Crc32c(0, text.data(), split);
    EXPECT_EQ(Crc32c(head, text.data() + split, text.size() - split),
              Crc32c(0, text.data(), text.size()));
  }
}

TEST(Crc32cTest, PortableEqualsHardwareForEveryLengthAndAlignment) {
  std::string bytes(400, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 131 + 7);
  for (size_t start = 0; start < 9; ++start) {
    for (size_t size = 0; size + start <= bytes.size(); ++size) {
      ASSERT_EQ(Crc32c(7, bytes.data() + start, size),
                Crc32cPortable(7, bytes.data() + start, size));
    }
  }
}

}  // namespace
}  // namespace engram
