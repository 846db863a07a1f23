#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/table_fit.h"

namespace engram::gpu {
namespace {

using testing::HasSubstr;

TEST(TableFitTest, WhatIsFreeMustHoldTheTablesAndSomeToSpare) {
  EXPECT_TRUE(CheckTablesFit(1000, 1000 + kTableSpareBytes).ok());
  EXPECT_FALSE(CheckTablesFit(1001, 1000 + kTableSpareBytes).ok());
  EXPECT_FALSE(CheckTablesFit(0, kTableSpareBytes - 1).ok());
}

TEST(TableFitTest, TheErrorHasTheNumbersAndSaysWhatToDo) {
  const Status status = CheckTablesFit(uint64_t{189} << 30, uint64_t{139} << 30);
  EXPECT_EQ(status.code(), StatusCode::kResourceExhausted);
  EXPECT_THAT(status.message(), HasSubstr("202937204736 bytes"));
  EXPECT_THAT(status.message(), HasSubstr("149250113536 are free"));
  EXPECT_THAT(status.message(), HasSubstr("--rows remote"));
}

}  // namespace
}  // namespace engram::gpu
