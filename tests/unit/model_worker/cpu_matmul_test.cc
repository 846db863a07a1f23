#include <cstring>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/matmul.h"

namespace engram {
namespace {

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> values;
  std::vector<float> out(count);
  for (float& v : out) v = values(random);
  return out;
}

// All tasks for `rows` rows; y holds `initial` before.
std::vector<float> Multiply(PackedMatrix* matrix, ComputePool* pool, const std::vector<float>& x,
                            uint32_t rows, int64_t columns_in, float initial) {
  std::vector<float> padded(MatmulRows(rows) * static_cast<size_t>(columns_in));
  std::memcpy(padded.data(), x.data(), rows * static_cast<size_t>(columns_in) * sizeof(float));
  std::vector<float> y(MatmulRows(rows) * static_cast<size_t>(matrix->columns_out()), initial);
  EXPECT_TRUE(matrix->Prepare(rows).ok());
  pool->Run(matrix->TaskCount(rows), [&](size_t task, uint32_t thread) {
    EXPECT_TRUE(matrix->RunTask(thread, task, rows, padded.data(), y.data()));
  });
  y.resize(rows * static_cast<size_t>(matrix->columns_out()));
  return y;
}

struct Shape {
  int64_t columns_in, columns_out;
};

class MatmulTest : public testing::TestWithParam<Shape> {};

TEST_P(MatmulTest, EqualsTheSlowProductAndAccumulatesWhenAsked) {
  const auto [in, out] = GetParam();
  const auto weights = Random(static_cast<size_t>(in * out), 1);
  const uint32_t rows = 7;
  const auto x = Random(rows * static_cast<size_t>(in), 2);
  ComputePool pool(2);
  MatmulShapes shapes(2);
  for (const bool accumulate : {false, true}) {
    auto matrix = PackedMatrix::Pack(&shapes, weights, out, in, accumulate);
    ASSERT_TRUE(matrix.has_value()) << matrix.error().ToString();
    const auto y = Multiply(&*matrix, &pool, x, rows, in, 5.0f);
    for (uint32_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < out; ++c) {
        double expected = accumulate ? 5.0 : 0.0;
        for (int64_t k = 0; k < in; ++k) {
          expected += double{x[static_cast<size_t>(r * in + k)]} *
                      double{weights[static_cast<size_t>(c * in + k)]};
        }
        ASSERT_NEAR(y[static_cast<size_t>(r * out + c)], expected, 1e-5 * static_cast<double>(in));
      }
    }
  }
}

// What the determinism of the whole backend rests on.
TEST_P(MatmulTest, ARowHasTheSameBitsForAnyNumberOfRowsAnyPlaceAndAnyThreads) {
  const auto [in, out] = GetParam();
  const auto weights = Random(static_cast<size_t>(in * out), 3);
  const auto row = Random(static_cast<size_t>(in), 4);
  for (const bool accumulate : {false, true}) {
    std::vector<float> first;
    for (const uint32_t threads : {1u, 2u}) {
      ComputePool pool(threads);
      MatmulShapes shapes(threads);
      auto matrix = PackedMatrix::Pack(&shapes, weights, out, in, accumulate);
      ASSERT_TRUE(matrix.has_value()) << matrix.error().ToString();
      for (const uint32_t rows :
           {1u, 2u, 3u, 5u, 6u, 8u, 11u, 12u, 13u, 24u, 47u, 95u, 96u, 97u, 110u}) {
        // The same row everywhere: each place must give the same result.
        std::vector<float> x;
        for (uint32_t r = 0; r < rows; ++r) x.insert(x.end(), row.begin(), row.end());
        const auto y = Multiply(&*matrix, &pool, x, rows, in, 0.5f);
        if (first.empty()) first.assign(y.begin(), y.begin() + out);
        for (uint32_t r = 0; r < rows; ++r) {
          ASSERT_EQ(std::memcmp(y.data() + r * out, first.data(),
                                static_cast<size_t>(out) * sizeof(float)),
                    0)
              << "row " << r << " of " << rows << ", " << threads << " threads";
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, MatmulTest,
                         testing::Values(Shape{64, 96}, Shape{100, 64}, Shape{256, 512},
                                         Shape{768, 256}, Shape{1024, 130}, Shape{3072, 40},
                                         Shape{64, 9000}));

}  // namespace
}  // namespace engram
