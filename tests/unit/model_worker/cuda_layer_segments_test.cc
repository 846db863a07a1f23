#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cuda/layer_segments.h"

namespace engram::gpu {
namespace {

using testing::ElementsAre;

TEST(LayerSegmentsTest, AStepIsCutWhereRowsAreAwaited) {
  const std::vector<int32_t> index = {-1, 0, -1, -1, 1, -1};
  EXPECT_THAT(PlanSegments(index, true),
              ElementsAre(LayerSegment{-1, 0, 1, true, false}, LayerSegment{0, 1, 4, false, false},
                          LayerSegment{1, 4, 6, false, true}));
}

TEST(LayerSegmentsTest, WithoutEngramAStepIsOneSegment) {
  const std::vector<int32_t> index = {-1, 0, -1};
  EXPECT_THAT(PlanSegments(index, false), ElementsAre(LayerSegment{-1, 0, 3, true, true}));
}

TEST(LayerSegmentsTest, TheEmbeddingRunsBeforeTheRowsOfLayerZeroAreAwaited) {
  const std::vector<int32_t> index = {1, 0};
  EXPECT_THAT(PlanSegments(index, true),
              ElementsAre(LayerSegment{-1, 0, 0, true, false}, LayerSegment{1, 0, 1, false, false},
                          LayerSegment{0, 1, 2, false, true}));
}

}  // namespace
}  // namespace engram::gpu
