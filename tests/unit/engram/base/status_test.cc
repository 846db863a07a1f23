#include "engram/base/status.h"

#include <gtest/gtest.h>

#include "proto/common.pb.h"

namespace engram {
namespace {

TEST(StatusTest, EveryCodeHasTheNameAndNumberOfItsProtoTwin) {
  ASSERT_EQ(proto::ErrorCode_ARRAYSIZE, kStatusCodeCount);
  for (int i = 0; i < kStatusCodeCount; ++i) {
    EXPECT_EQ(proto::ErrorCode_Name(static_cast<proto::ErrorCode>(i)),
              StatusCodeName(static_cast<StatusCode>(i)));
  }
}

TEST(StatusTest, ToStringNamesCodeAndMessage) {
  EXPECT_EQ(Status().ToString(), "OK");
  EXPECT_EQ(Status(StatusCode::kNotOwned, "slot 17 is not on node m2").ToString(),
            "NOT_OWNED: slot 17 is not on node m2");
}

TEST(StatusTest, WithContextKeepsTheCode) {
  const Status status = Status(StatusCode::kIo, "disk full").WithContext("loading slot 3");
  EXPECT_EQ(status, Status(StatusCode::kIo, "loading slot 3: disk full"));
}

Result<int> Half(int x) {
  if (x % 2 != 0) return Error(StatusCode::kInvalidArgument, "odd");
  return x / 2;
}
Result<int> Quarter(int x) {
  ENGRAM_ASSIGN_OR_RETURN(const int half, Half(x));
  return Half(half);
}

TEST(StatusTest, AssignOrReturnPassesTheErrorOn) {
  EXPECT_EQ(Quarter(8).value(), 2);
  EXPECT_EQ(Quarter(6).error().message(), "odd");
}

}  // namespace
}  // namespace engram
