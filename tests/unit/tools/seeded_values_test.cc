#include "tools/seeded_values.h"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "engram/table/row_codec.h"

namespace engram {
namespace {

TEST(SeededValuesTest, ValuesDependOnTheirPlaceNotOnTheBlocks) {
  const uint64_t seed = TensorSeed(7, "t");
  std::vector<float> whole(1003);
  FillNormal(seed, 0, 0, 1, whole);
  std::vector<float> parts(1003);
  FillNormal(seed, 0, 0, 1, std::span(parts).first(400));
  FillNormal(seed, 400, 0, 1, std::span(parts).subspan(400));
  EXPECT_EQ(whole, parts);
  std::vector<std::byte> bytes(1003);
  FillE4M3(seed, 0, bytes);
  std::vector<std::byte> byte_parts(1003);
  FillE4M3(seed, 0, std::span(byte_parts).first(500));
  FillE4M3(seed, 500, std::span(byte_parts).subspan(500));
  EXPECT_EQ(bytes, byte_parts);
}

TEST(SeededValuesTest, SeedAndNameChooseTheStream) {
  EXPECT_NE(TensorSeed(1, "a"), TensorSeed(1, "b"));
  EXPECT_NE(TensorSeed(1, "a"), TensorSeed(2, "a"));
}

TEST(SeededValuesTest, NormalsHaveMeanAndDeviation) {
  std::vector<float> values(100000);
  FillNormal(TensorSeed(1, "n"), 0, 3.0f, 0.5f, values);
  double sum = 0;
  for (const float value : values) sum += value;
  const double mean = sum / 1e5;
  double squares = 0;
  for (const float value : values) squares += (value - mean) * (value - mean);
  EXPECT_NEAR(mean, 3.0, 0.01);
  EXPECT_NEAR(std::sqrt(squares / 1e5), 0.5, 0.01);
}

TEST(SeededValuesTest, E4M3IsNormalAndNeverNan) {
  std::vector<std::byte> bytes(1000000);
  FillE4M3(TensorSeed(1, "e"), 0, bytes);
  double squares = 0;
  for (const std::byte byte : bytes) {
    const float value = DecodeE4M3(std::to_integer<uint8_t>(byte));
    ASSERT_FALSE(std::isnan(value));
    squares += static_cast<double>(value) * value;
  }
  EXPECT_NEAR(std::sqrt(squares / 1e6), 1.0, 0.02);
}

TEST(SeededValuesTest, ScalesAreFourPowersOfTwo) {
  std::vector<std::byte> bytes(10001);
  FillScales(TensorSeed(1, "s"), 0, bytes);
  std::vector<int> counts(256, 0);
  for (const std::byte byte : bytes) ++counts[std::to_integer<size_t>(byte)];
  EXPECT_EQ(counts[126] + counts[127] + counts[128] + counts[129], 10001);
  for (int scale = 126; scale <= 129; ++scale) EXPECT_GT(counts[static_cast<size_t>(scale)], 2000);
}

}  // namespace
}  // namespace engram
