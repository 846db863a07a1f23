#include <bit>
#include <set>

#include <gtest/gtest.h>

#include "model_worker/cuda/launch_shape.h"

namespace engram::gpu {
namespace {

TEST(LaunchShapeTest, ARowBucketIsItsOwnBucketAndWastesLittle) {
  std::set<uint32_t> buckets;
  for (uint32_t rows = 1; rows <= 65536; ++rows) {
    const uint32_t bucket = RowBucket(rows);
    ASSERT_GE(bucket, rows);
    ASSERT_EQ(RowBucket(bucket), bucket);
    ASSERT_LT(bucket, 2 * rows);
    if (rows > 512) {
      ASSERT_LE(bucket, rows + 255);
    }
    buckets.insert(bucket);
  }
  EXPECT_EQ(RowBucket(0), 1u);
  EXPECT_EQ(RowBucket(17), 32u);
  EXPECT_EQ(RowBucket(200), 256u);
  EXPECT_LT(buckets.size(), 300u);
}

TEST(LaunchShapeTest, DecodeSplitsCoverTheLongestSequenceAndFillTheGpu) {
  for (uint32_t sequences = 1; sequences <= 512; sequences *= 2) {
    for (uint32_t length = 1; length <= 1u << 20; length = length * 2 + 1) {
      const DecodeSplits splits = ChooseDecodeSplits(sequences, 8, length);
      ASSERT_GE(uint64_t{splits.count} * splits.tokens, length);
      ASSERT_GE(splits.tokens, kSplitTokensMin);
      ASSERT_TRUE(std::has_single_bit(splits.count) && std::has_single_bit(splits.tokens));
      // Few blocks only where the sequences are short.
      const bool full = uint64_t{sequences} * 8 * splits.count >= 200;
      ASSERT_TRUE(full || splits.tokens == kSplitTokensMin) << sequences << " " << length;
    }
  }
  EXPECT_EQ(ChooseDecodeSplits(1, 8, 300), (DecodeSplits{4, 128}));
  EXPECT_EQ(ChooseDecodeSplits(1, 8, 4096), (DecodeSplits{32, 128}));
  EXPECT_EQ(ChooseDecodeSplits(256, 8, 4096), (DecodeSplits{1, 4096}));
  // The best of those measured on an H200 (gpu_bandwidth --all-splits), or within 3 % of it.
  EXPECT_EQ(ChooseDecodeSplits(1, 8, 32768).count, 32u);
  EXPECT_EQ(ChooseDecodeSplits(4, 8, 8192).count, 8u);
  EXPECT_EQ(ChooseDecodeSplits(32, 8, 1024).count, 1u);
  EXPECT_EQ(ChooseDecodeSplits(64, 8, 2048).count, 2u);
  EXPECT_EQ(ChooseDecodeSplits(32, 8, 4096).count, 1u);
  EXPECT_EQ(ChooseDecodeSplits(128, 8, 1024).count, 1u);
  EXPECT_EQ(ChooseDecodeSplits(256, 8, 2048).count, 1u);
  // However few blocks there are, more parts are better.
  EXPECT_EQ(ChooseDecodeSplits(1, 1, 4096).count, 32u);
}

TEST(LaunchShapeTest, PartialResultsHaveRoomForEveryStep) {
  const uint64_t most = DecodePartialsMax(300, 2, 5000);
  for (uint32_t sequences = 1; sequences <= 300; ++sequences) {
    for (const uint32_t rows : {sequences, RowBucket(sequences)}) {
      for (const uint32_t length : {1u, 257u, 5000u}) {
        ASSERT_LE(uint64_t{rows} * ChooseDecodeSplits(rows, 2, length).count, most);
      }
    }
  }
  EXPECT_LT(most, 2048u);
}

TEST(LaunchShapeTest, HeadDimensionsHaveAKernel) {
  EXPECT_EQ(PaddedHeadDim(24), 32u);
  EXPECT_EQ(PaddedHeadDim(128), 128u);
  EXPECT_EQ(PaddedHeadDim(136), 0u);
}

TEST(LaunchShapeTest, ThreadsOfARowAreWholeWarpsAndMostlyBusy) {
  for (uint32_t units = 1; units <= 2048; ++units) {
    const uint32_t threads = RowThreads(units);
    ASSERT_TRUE(threads % 32 == 0 && threads >= 128 && threads <= 512);
  }
  EXPECT_EQ(RowThreads(640), 320u);  // hidden 5120 in eights
  EXPECT_EQ(RowThreads(512), 512u);
}

}  // namespace
}  // namespace engram::gpu
