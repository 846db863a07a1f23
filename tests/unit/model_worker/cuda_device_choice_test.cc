#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/device_choice.h"

namespace engram::gpu {
namespace {

using testing::HasSubstr;

TEST(DeviceChoiceTest, RanksOfAHostTakeItsGpusInOrder) {
  for (uint32_t rank = 0; rank < 4; ++rank) {
    EXPECT_EQ(ChooseGpu(std::nullopt, rank, 4).value(), static_cast<int32_t>(rank));
  }
}

TEST(DeviceChoiceTest, TheOnlyVisibleGpuIsTheRanksOwn) {
  EXPECT_EQ(ChooseGpu(std::nullopt, 0, 1).value(), 0);
  EXPECT_EQ(ChooseGpu(std::nullopt, 3, 1).value(), 0);
}

TEST(DeviceChoiceTest, TheWantedOneIsTakenWhateverTheRank) {
  EXPECT_EQ(ChooseGpu(2, 0, 4).value(), 2);
  EXPECT_EQ(ChooseGpu(0, 3, 4).value(), 0);
}

TEST(DeviceChoiceTest, AGpuThatIsNotThereIsAnErrorThatNamesTheFlag) {
  const auto wanted = ChooseGpu(1, 0, 1);
  ASSERT_FALSE(wanted.has_value());
  EXPECT_EQ(wanted.error().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(wanted.error().message(), HasSubstr("GPU 1 is not there"));
  EXPECT_THAT(wanted.error().message(), HasSubstr("--gpu"));
  const auto too_many = ChooseGpu(std::nullopt, 2, 2);
  ASSERT_FALSE(too_many.has_value());
  EXPECT_THAT(too_many.error().message(), HasSubstr("rank 2 of this host has no GPU"));
  EXPECT_THAT(too_many.error().message(), HasSubstr("--gpu"));
  EXPECT_FALSE(ChooseGpu(std::nullopt, 0, 0).has_value());
}

}  // namespace
}  // namespace engram::gpu
