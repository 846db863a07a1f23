// Fusion against the formulas written out in double precision, for several branches.
#include "model_worker/fusion.h"

#include <cmath>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

constexpr int32_t kHidden = 40;
constexpr int32_t kBranches = 3;
constexpr int32_t kKernel = 4;

std::vector<float> Random(size_t count, float center, float spread, std::mt19937* random) {
  std::normal_distribution<float> values(center, spread);
  std::vector<float> out(count);
  for (float& v : out) v = values(*random);
  return out;
}

EngramLayerWeights RandomWeights(bool demo, std::mt19937* random) {
  EngramLayerWeights weights;
  weights.branch_count = kBranches;
  const size_t width = size_t{kBranches} * kHidden;
  weights.key_norm = Random(width, 1.0f, 0.3f, random);
  weights.query_norm = Random(width, 1.0f, 0.3f, random);
  if (demo) {
    weights.bias = Random(width + kHidden, 0, 0.3f, random);
    weights.conv_norm = Random(width, 1.0f, 0.3f, random);
    weights.conv = Random(width * kKernel, 0, 0.5f, random);
  }
  return weights;
}

double Sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

double MeanSquare(const float* x) {
  double sum = 0;
  for (int i = 0; i < kHidden; ++i) sum += double{x[i]} * double{x[i]};
  return sum / kHidden;
}

TEST(FusionTest, V41EqualsTheFormula) {
  std::mt19937 random(1);
  const EngramLayerWeights weights = RandomWeights(false, &random);
  const auto kv = Random(size_t{kBranches + 1} * kHidden, 0, 1, &random);
  auto hidden = Random(size_t{kBranches} * kHidden, 0, 1, &random);
  const auto before = hidden;
  const double eps = 1e-6;
  FuseV41(weights, kHidden, static_cast<float>(eps), kv.data(), hidden.data());
  for (int g = 0; g < kBranches; ++g) {
    const size_t at = static_cast<size_t>(g) * kHidden;
    double s = 0;
    for (size_t i = at; i < at + kHidden; ++i) {
      s += double{before[i]} * double{weights.query_norm[i]} * double{weights.key_norm[i]} *
           double{kv[i]};
    }
    s /= std::sqrt(MeanSquare(&before[at]) + eps) * std::sqrt(MeanSquare(&kv[at]) + eps) *
         std::sqrt(double{kHidden});
    const double root = std::sqrt(std::max(std::fabs(s), 1e-6));
    const double gate = Sigmoid(s < 0 ? -root : root);
    for (size_t i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(hidden[at + i], before[at + i] + gate * kv[size_t{kBranches} * kHidden + i],
                  1e-5);
    }
  }
}

TEST(FusionTest, V41GateOfZeroDotProductIsAboveOneHalf) {
  std::mt19937 random(2);
  EngramLayerWeights weights = RandomWeights(false, &random);
  weights.branch_count = 1;
  std::vector<float> kv(2 * kHidden, 0.0f);
  std::fill(kv.begin() + kHidden, kv.end(), 1.0f);
  std::vector<float> hidden(kHidden, 0.0f);
  FuseV41(weights, kHidden, 1e-6f, kv.data(), hidden.data());
  // s = 0 gives +r, r = sqrt(1e-6).
  EXPECT_NEAR(hidden[0], Sigmoid(1e-3), 1e-7);
  EXPECT_GT(hidden[0], 0.5f);
}

TEST(FusionTest, DemoGateOfZeroDotProductIsOneHalf) {
  std::mt19937 random(3);
  EngramLayerWeights weights = RandomWeights(true, &random);
  weights.branch_count = 1;
  weights.bias.assign(2 * kHidden, 0.0f);
  std::vector<float> kv(2 * kHidden, 0.0f);
  std::fill(kv.begin() + kHidden, kv.end(), 1.0f);
  const std::vector<float> hidden(kHidden, 1.0f);
  std::vector<float> gated(kHidden);
  GateDemo(weights, kHidden, kv.data(), hidden.data(), gated.data());
  EXPECT_EQ(gated[0], 0.5f);
}

TEST(FusionTest, DemoGateEqualsTheFormula) {
  std::mt19937 random(4);
  const EngramLayerWeights weights = RandomWeights(true, &random);
  const auto kv = Random(size_t{kBranches + 1} * kHidden, 0, 1, &random);
  const auto hidden = Random(size_t{kBranches} * kHidden, 0, 1, &random);
  std::vector<float> gated(hidden.size());
  GateDemo(weights, kHidden, kv.data(), hidden.data(), gated.data());
  const size_t value_at = size_t{kBranches} * kHidden;
  for (size_t g = 0; g < kBranches; ++g) {
    const size_t at = g * kHidden;
    std::vector<float> key(kHidden);
    for (size_t i = 0; i < kHidden; ++i) key[i] = kv[at + i] + weights.bias[at + i];
    double s = 0;
    for (size_t i = 0; i < kHidden; ++i) {
      s += double{hidden[at + i]} * double{weights.query_norm[at + i]} * double{key[i]} *
           double{weights.key_norm[at + i]};
    }
    s /= std::sqrt(MeanSquare(&hidden[at])) * std::sqrt(MeanSquare(key.data())) *
         std::sqrt(double{kHidden});
    const double gate = Sigmoid(std::copysign(std::sqrt(std::max(std::fabs(s), 1e-6)), s));
    for (size_t i = 0; i < kHidden; ++i) {
      EXPECT_NEAR(gated[at + i],
                  gate * (double{kv[value_at + i]} + double{weights.bias[value_at + i]}), 1e-5);
    }
  }
}

TEST(FusionTest, ConvolutionIsCausalDilatedAndDepthwise) {
  std::mt19937 random(5);
  const EngramLayerWeights weights = RandomWeights(true, &random);
  const int32_t dilation = 3;
  const int32_t history = ConvHistoryRows(kKernel, dilation);
  ASSERT_EQ(history, 9);
  const size_t width = size_t{kBranches} * kHidden;
  const auto window = Random((static_cast<size_t>(history) + 1) * width, 0, 1, &random);
  const auto gated = Random(width, 0, 1, &random);
  std::vector<float> hidden(width, 0.0f);
  const float* now = window.data() + static_cast<size_t>(history) * width;
  ConvolveDemo(weights, kHidden, kKernel, dilation, gated.data(), now,
               static_cast<ptrdiff_t>(width), hidden.data());
  for (size_t c = 0; c < width; ++c) {
    // Taps at t - 9, t - 6, t - 3 and t.
    double sum = 0;
    for (size_t tap = 0; tap < kKernel; ++tap) {
      sum += double{weights.conv[c * kKernel + tap]} * double{window[tap * 3 * width + c]};
    }
    EXPECT_NEAR(hidden[c], double{gated[c]} + sum * Sigmoid(sum), 1e-5);
  }
}

TEST(FusionTest, ConvolutionInputIsNormalisedPerBranch) {
  std::mt19937 random(6);
  const EngramLayerWeights weights = RandomWeights(true, &random);
  const auto gated = Random(kHidden, 0, 2, &random);
  std::vector<float> out(kHidden);
  NormConvInput(weights, 2, kHidden, gated.data(), out.data());
  const double inverse = 1 / std::sqrt(MeanSquare(gated.data()) + 1e-5);
  for (size_t i = 0; i < kHidden; ++i) {
    EXPECT_NEAR(out[i], gated[i] * inverse * weights.conv_norm[2 * kHidden + i], 1e-5);
  }
}

}  // namespace
}  // namespace engram
