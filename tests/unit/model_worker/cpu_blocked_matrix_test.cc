#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "model_worker/cpu/blocked_matrix.h"

namespace engram {
namespace {

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> values;
  std::vector<float> out(count);
  for (float& v : out) v = values(random);
  return out;
}

constexpr int64_t kIn = 8 * 44;
constexpr int64_t kOut = 300;  // three panels, the last one short

std::vector<float> Product(BlockedMatrix* matrix, ComputePool* pool, uint32_t rows,
                           const std::vector<float>& x, BlockedMatrix::Output output,
                           float initial) {
  std::vector<float> padded = x;
  padded.resize(MatmulRows(rows) * x.size() / rows);
  std::vector<float> y(rows * static_cast<size_t>(kOut), initial);
  const Status status = matrix->Run(pool, rows, padded.data(), output, y.data());
  EXPECT_TRUE(status.ok()) << status.ToString();
  return y;
}

// Columns [begin, end) of `values` [rows][kIn].
std::vector<float> Columns(const std::vector<float>& values, int64_t begin, int64_t end) {
  std::vector<float> out;
  for (auto row = values.begin(); row != values.end(); row += kIn) {
    out.insert(out.end(), row + begin, row + end);
  }
  return out;
}

TEST(BlockedMatrixTest, EqualsTheSlowProductAndAddsWhenAsked) {
  const auto weights = Random(kOut * kIn, 1);
  ComputePool pool(2);
  MatmulShapes shapes(2);
  for (const uint32_t blocks : {1u, 2u, 4u, 8u}) {
    auto matrix = BlockedMatrix::Pack(&shapes, weights, kOut, kIn, blocks);
    ASSERT_TRUE(matrix.has_value()) << matrix.error().ToString();
    for (const uint32_t rows : {1u, 7u, 96u, 110u}) {
      const auto x = Random(rows * size_t{kIn}, rows);
      const auto set = Product(&*matrix, &pool, rows, x, BlockedMatrix::Output::kSet, 5.0f);
      const auto added = Product(&*matrix, &pool, rows, x, BlockedMatrix::Output::kAdd, 5.0f);
      for (uint32_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < kOut; ++c) {
          double expected = 0;
          for (int64_t k = 0; k < kIn; ++k) {
            expected += double{x[static_cast<size_t>(r * kIn + k)]} *
                        double{weights[static_cast<size_t>(c * kIn + k)]};
          }
          const auto at = static_cast<size_t>(r * kOut + c);
          ASSERT_NEAR(set[at], expected, 1e-3);
          ASSERT_EQ(added[at], 5.0f + set[at]);
        }
      }
    }
  }
}

// What "the same tokens for any number of ranks" rests on.
TEST(BlockedMatrixTest, SumsOfPartsInPairsHaveTheBitsOfTheWhole) {
  constexpr uint32_t kBlocks = 8;
  const auto weights = Random(kOut * kIn, 2);
  ComputePool pool(2);
  MatmulShapes shapes(2);
  auto whole = BlockedMatrix::Pack(&shapes, weights, kOut, kIn, kBlocks);
  ASSERT_TRUE(whole.has_value());
  for (const uint32_t rows : {1u, 2u, 13u, 96u, 200u}) {
    const auto x = Random(rows * size_t{kIn}, 100 + rows);
    const auto expected = Product(&*whole, &pool, rows, x, BlockedMatrix::Output::kSet, 0);
    for (const uint32_t parts : {2u, 4u, 8u}) {
      std::vector<std::vector<float>> sums;
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t begin = part * kIn / parts;
        const int64_t end = (part + 1) * kIn / parts;
        auto matrix = BlockedMatrix::Pack(&shapes, Columns(weights, begin, end), kOut, end - begin,
                                          kBlocks / parts);
        ASSERT_TRUE(matrix.has_value());
        sums.push_back(
            Product(&*matrix, &pool, rows, Columns(x, begin, end), BlockedMatrix::Output::kSet, 0));
      }
      for (; sums.size() > 1; sums.resize(sums.size() / 2)) {
        for (size_t i = 0; i < sums.size() / 2; ++i) {
          std::vector<float> sum = sums[2 * i];
          for (size_t v = 0; v < sum.size(); ++v) sum[v] += sums[2 * i + 1][v];
          sums[i] = sum;
        }
      }
      EXPECT_EQ(std::memcmp(sums[0].data(), expected.data(), expected.size() * sizeof(float)), 0)
          << parts << " parts, " << rows << " rows";
    }
  }
}

}  // namespace
}  // namespace engram
