// Each instruction set's kernels against slow, obvious versions in double precision.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "model_worker/cpu/kernels.h"

namespace engram {
namespace {

std::vector<float> Random(size_t count, float spread, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> values(0.0f, spread);
  std::vector<float> out(count);
  for (float& v : out) v = values(random);
  return out;
}

class KernelsTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    const std::string name = GetParam();
    kernels_ = name == "avx512" ? Avx512Kernels()
               : name == "avx2" ? Avx2Kernels()
                                : GenericKernels();
    if (kernels_ == nullptr) GTEST_SKIP() << "this CPU or build has no " << name;
  }
  const Kernels* kernels_ = nullptr;
};

TEST_P(KernelsTest, RmsNormEqualsTheFormulaForAnyLength) {
  for (const int n : {1, 15, 16, 17, 64, 100, 1024}) {
    const auto count = static_cast<size_t>(n);
    const auto x = Random(count, 2.0f, 1);
    const auto weight = Random(count, 1.0f, 2);
    std::vector<float> out(count);
    kernels_->rms_norm(x.data(), weight.data(), 1e-6f, n, out.data());
    double sum = 0;
    for (const float v : x) sum += double{v} * double{v};
    const double inverse = 1 / std::sqrt(sum / n + 1e-6);
    for (size_t i = 0; i < count; ++i) {
      EXPECT_NEAR(out[i], x[i] * inverse * weight[i], 1e-5) << n << " " << i;
    }
  }
}

TEST_P(KernelsTest, NormRotateTurnsTheHalvesAsHuggingFaceDoes) {
  for (const int dim : {2, 24, 64, 128}) {
    const auto count = static_cast<size_t>(dim);
    const auto x = Random(count, 2.0f, 3);
    const auto weight = Random(count, 1.0f, 4);
    const size_t half = count / 2;
    std::vector<float> cosine(half), sine(half), out = x;
    for (size_t i = 0; i < half; ++i) {
      cosine[i] = std::cos(0.3f * static_cast<float>(i + 1));
      sine[i] = std::sin(0.3f * static_cast<float>(i + 1));
    }
    // In place.
    kernels_->norm_rotate(out.data(), weight.data(), 1e-6f, dim, cosine.data(), sine.data(), 0.5f,
                          out.data());
    double sum = 0;
    for (const float v : x) sum += double{v} * double{v};
    const double inverse = 1 / std::sqrt(sum / dim + 1e-6);
    for (size_t i = 0; i < half; ++i) {
      const double a = x[i] * inverse * weight[i];
      const double b = x[i + half] * inverse * weight[i + half];
      EXPECT_NEAR(out[i], 0.5 * (a * cosine[i] - b * sine[i]), 1e-5);
      EXPECT_NEAR(out[i + half], 0.5 * (b * cosine[i] + a * sine[i]), 1e-5);
    }
  }
}

TEST_P(KernelsTest, SiluMultiplyEqualsTheFormulaAndStaysFiniteAtTheEnds) {
  for (const size_t n : {size_t{1}, size_t{16}, size_t{50}}) {
    auto gate = Random(n, 4.0f, 5);
    const auto up = Random(n, 1.0f, 6);
    gate[0] = -1000.0f;
    if (n > 1) gate[1] = 1000.0f;
    std::vector<float> out(n);
    kernels_->silu_multiply(gate.data(), up.data(), static_cast<int>(n), out.data());
    for (size_t i = 0; i < n; ++i) {
      const double expected = gate[i] / (1 + std::exp(-double{gate[i]})) * up[i];
      EXPECT_NEAR(out[i], expected, 1e-6 * (1 + std::fabs(expected))) << gate[i];
    }
  }
}

// Keys and values of one sequence, in the cache's layout. What lies past `positions` is NaN.
struct Cache {
  Cache(int positions, int dim, uint32_t seed)
      : head_dim(dim),
        value_stride((dim + 15) / 16 * 16),
        plain_keys(Random(Size(positions, dim), 1, seed)),
        plain_values(Random(Size(positions, dim), 1, seed + 1)) {
    const int padded = (positions + 15) / 16 * 16;
    keys.assign(Size(padded, dim), std::nanf(""));
    values.assign(Size(padded, value_stride), std::nanf(""));
    for (int p = 0; p < positions; ++p) {
      for (int d = 0; d < value_stride; ++d) {
        values[Size(p, value_stride) + static_cast<size_t>(d)] =
            d < dim ? plain_values[Size(p, dim) + static_cast<size_t>(d)] : 0.0f;
      }
      for (int d = 0; d < dim; ++d) {
        keys[Size(p / 16 * 16, dim) + static_cast<size_t>(d * 16 + p % 16)] =
            plain_keys[Size(p, dim) + static_cast<size_t>(d)];
      }
    }
  }
  static size_t Size(int a, int b) { return static_cast<size_t>(a) * static_cast<size_t>(b); }

  int head_dim, value_stride;
  std::vector<float> plain_keys, plain_values, keys, values;
};

// [queries][head_dim]
std::vector<float> Attend(const Kernels& kernels, const Cache& cache,
                          const std::vector<const float*>& queries,
                          const std::vector<int>& lengths) {
  const int stride = (*std::max_element(lengths.begin(), lengths.end()) + 15) / 16 * 16;
  std::vector<float> scores(Cache::Size(stride, kAttendQueriesMax));
  std::vector<float> out(queries.size() * static_cast<size_t>(cache.head_dim));
  std::vector<float*> outputs;
  for (size_t q = 0; q < queries.size(); ++q) {
    outputs.push_back(out.data() + q * static_cast<size_t>(cache.head_dim));
  }
  AttendArgs args;
  args.query_count = static_cast<int>(queries.size());
  args.queries = queries.data();
  args.lengths = lengths.data();
  args.outputs = outputs.data();
  args.keys = cache.keys.data();
  args.values = cache.values.data();
  args.head_dim = cache.head_dim;
  args.value_stride = cache.value_stride;
  args.scores = scores.data();
  args.score_stride = stride;
  kernels.attend(args);
  return out;
}

std::vector<double> SlowAttend(const Cache& cache, const float* query, int length) {
  std::vector<double> weights;
  for (int p = 0; p < length; ++p) {
    double score = 0;
    for (int d = 0; d < cache.head_dim; ++d) {
      score += double{query[d]} *
               double{cache.plain_keys[Cache::Size(p, cache.head_dim) + static_cast<size_t>(d)]};
    }
    weights.push_back(score);
  }
  const double max = *std::max_element(weights.begin(), weights.end());
  double sum = 0;
  for (double& w : weights) sum += w = std::exp(w - max);
  std::vector<double> out(static_cast<size_t>(cache.head_dim), 0.0);
  for (int p = 0; p < length; ++p) {
    for (size_t d = 0; d < out.size(); ++d) {
      out[d] += weights[static_cast<size_t>(p)] / sum *
                cache.plain_values[Cache::Size(p, cache.head_dim) + d];
    }
  }
  return out;
}

TEST_P(KernelsTest, AttentionEqualsTheFormulaAndReadsNothingPastTheLongestQuery) {
  for (const int dim : {16, 24, 64, 80, 128}) {
    for (const int positions : {1, 15, 16, 17, 33, 70, 200}) {
      const Cache cache(positions, dim, 7);
      const auto queries = Random(Cache::Size(4, dim), 1.0f, 8);
      for (size_t count = 1; count <= 4; ++count) {
        std::vector<const float*> pointers;
        std::vector<int> lengths;
        for (size_t q = 0; q < count; ++q) {
          pointers.push_back(queries.data() + q * static_cast<size_t>(dim));
          lengths.push_back(std::max(1, positions - static_cast<int>(count - 1 - q) / 2));
        }
        const auto out = Attend(*kernels_, cache, pointers, lengths);
        for (size_t q = 0; q < count; ++q) {
          const auto expected = SlowAttend(cache, pointers[q], lengths[q]);
          for (size_t d = 0; d < expected.size(); ++d) {
            ASSERT_NEAR(out[q * expected.size() + d], expected[d], 1e-5)
                << "head_dim " << dim << ", " << positions << " positions, query " << q;
          }
        }
      }
    }
  }
}

TEST_P(KernelsTest, AttentionOfAQueryHasTheSameBitsInAnyTile) {
  const int dim = 64, positions = 150;
  const Cache cache(positions, dim, 9);
  const auto queries = Random(Cache::Size(4, dim), 1.0f, 10);
  const std::vector<int> lengths = {97, 112, 113, 150};
  std::vector<const float*> pointers;
  for (size_t q = 0; q < 4; ++q) pointers.push_back(queries.data() + q * dim);
  const auto together = Attend(*kernels_, cache, pointers, lengths);
  for (size_t q = 0; q < 4; ++q) {
    const auto alone = Attend(*kernels_, cache, {pointers[q]}, {lengths[q]});
    EXPECT_EQ(std::memcmp(alone.data(), together.data() + q * dim, dim * sizeof(float)), 0) << q;
  }
}

TEST_P(KernelsTest, AttentionSurvivesScoresFarApart) {
  const int dim = 16;
  const Cache cache(40, dim, 11);
  auto query = Random(static_cast<size_t>(dim), 300.0f, 12);
  const auto out = Attend(*kernels_, cache, {query.data()}, {40});
  const auto expected = SlowAttend(cache, query.data(), 40);
  for (size_t d = 0; d < expected.size(); ++d) EXPECT_NEAR(out[d], expected[d], 1e-3);
}

INSTANTIATE_TEST_SUITE_P(InstructionSets, KernelsTest, testing::Values("generic", "avx2", "avx512"),
                         [](const auto& tested) { return std::string(tested.param); });

}  // namespace
}  // namespace engram
