#include "engram/transport/read_way.h"

#include <gtest/gtest.h>

namespace engram {
namespace {

TEST(ReadWayTest, EveryNameParsesBack) {
  for (const ReadWay way :
       {ReadWay::kAuto, ReadWay::kGather, ReadWay::kMapped, ReadWay::kOneSided}) {
    EXPECT_EQ(ParseReadWay(ReadWayName(way)).value(), way);
  }
}

TEST(ReadWayTest, UnknownNameIsRefusedByName) {
  const auto way = ParseReadWay("telepathy");
  ASSERT_FALSE(way.has_value());
  EXPECT_EQ(way.error().code(), StatusCode::kInvalidArgument);
  EXPECT_NE(way.error().message().find("telepathy"), std::string::npos);
}

}  // namespace
}  // namespace engram
