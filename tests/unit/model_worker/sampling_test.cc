#include "model_worker/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

SamplingParams Params(float temperature, uint32_t top_k, float top_p, uint64_t seed = 1) {
  SamplingParams params;
  params.temperature = temperature;
  params.top_k = top_k;
  params.top_p = top_p;
  params.seed = seed;
  return params;
}

std::vector<float> RandomLogits(size_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal(0.0f, 2.0f);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

// The slow model: sort everything, cut by count, then by mass, probabilities of what is left by id.
std::map<TokenId, double> SlowDistribution(const std::vector<float>& logits,
                                           const SamplingParams& params) {
  std::vector<TokenId> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](TokenId a, TokenId b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  if (params.top_k > 0 && params.top_k < order.size()) order.resize(params.top_k);
  const auto weight = [&](TokenId id) {
    return std::exp((static_cast<double>(logits[static_cast<size_t>(id)]) -
                     logits[static_cast<size_t>(order[0])]) /
                    params.temperature);
  };
  double total = 0.0;
  for (const TokenId id : order) total += weight(id);
  double mass = 0.0;
  std::map<TokenId, double> kept;
  for (const TokenId id : order) {
    if (!kept.empty() && mass >= params.top_p * total) break;
    mass += weight(id);
    kept[id] = weight(id);
  }
  for (auto& [id, w] : kept) w /= mass;
  return kept;
}

TEST(SamplingTest, GreedyTakesTheHighestLogit) {
  Sampler sampler;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const auto logits = RandomLogits(1 + seed * 7, seed);
    const auto highest = std::max_element(logits.begin(), logits.end()) - logits.begin();
    EXPECT_EQ(sampler.Sample(logits, {}), highest);
  }
}

TEST(SamplingTest, GreedyTakesTheLowestIdAmongEquals) {
  Sampler sampler;
  std::vector<float> logits(100, -1.0f);
  logits[37] = logits[36] = logits[90] = 2.5f;
  EXPECT_EQ(sampler.Sample(logits, {}), 36);
}

// The highest are looked for block by block.
TEST(SamplingTest, GreedyTakesTheLowestIdInALargeVocabularyToo) {
  Sampler sampler;
  for (const size_t first :
       {size_t{0}, size_t{4095}, size_t{4096}, size_t{9000}, size_t{151'935}}) {
    std::vector<float> logits(151'936, -1.0f);
    for (size_t at = first; at < logits.size(); at += 4096) logits[at] = 2.0f;
    logits[0] = first == 0 ? 2.0f : std::nanf("");
    EXPECT_EQ(sampler.Sample(logits, {}), static_cast<TokenId>(first));
  }
}

TEST(SamplingTest, FrequenciesMatchTheSlowModelsProbabilities) {
  Sampler sampler;
  const SamplingParams cases[] = {Params(1.0f, 0, 1.0f), Params(0.7f, 5, 1.0f),
                                  Params(1.3f, 0, 0.8f), Params(1.0f, 12, 0.6f),
                                  Params(2.0f, 40, 0.95f)};
  constexpr int kDraws = 40000;
  const auto logits = RandomLogits(40, 99);
  for (const SamplingParams& params : cases) {
    const auto expected = SlowDistribution(logits, params);
    std::map<TokenId, int> counts;
    for (int i = 0; i < kDraws; ++i) {
      ++counts[sampler.Sample(logits, {params, static_cast<uint64_t>(i)})];
    }
    for (const auto& [id, count] : counts) {
      ASSERT_TRUE(expected.count(id)) << "token " << id << " was cut but drawn";
    }
    for (const auto& [id, probability] : expected) {
      const double sigma = std::sqrt(kDraws * probability * (1 - probability)) + 1;
      EXPECT_NEAR(counts[id], kDraws * probability, 5 * sigma) << "token " << id;
    }
  }
}

TEST(SamplingTest, TopPKeepsWhatTheSlowModelKeepsInALargeVocabulary) {
  Sampler sampler;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const auto logits = RandomLogits(5000, seed);
    const auto params = Params(1.0f, seed % 2 == 0 ? 0 : 300, 0.3f + 0.08f * seed);
    const auto expected = SlowDistribution(logits, params);
    for (uint64_t i = 0; i < 300; ++i) {
      EXPECT_TRUE(expected.count(sampler.Sample(logits, {params, i})));
    }
  }
}

TEST(SamplingTest, TinyTopPIsGreedy) {
  Sampler sampler;
  const auto logits = RandomLogits(1000, 5);
  const TokenId greedy = sampler.Sample(logits, {});
  for (uint64_t i = 0; i < 100; ++i) {
    EXPECT_EQ(sampler.Sample(logits, {Params(1.5f, 0, 1e-6f), i}), greedy);
    EXPECT_EQ(sampler.Sample(logits, {Params(1.5f, 1, 1.0f), i}), greedy);
  }
}

TEST(SamplingTest, EqualLogitsAtTheTopKBoundaryKeepTheLowerIds) {
  Sampler sampler;
  const std::vector<float> logits(50, 1.0f);
  for (uint64_t i = 0; i < 200; ++i) {
    EXPECT_LT(sampler.Sample(logits, {Params(1.0f, 4, 1.0f), i}), 4);
  }
}

TEST(SamplingTest, DrawsDependOnSeedAndCounterAlone) {
  Sampler fresh;
  Sampler used;
  const auto logits = RandomLogits(300, 1);
  const auto other = RandomLogits(777, 2);
  bool any_difference = false;
  for (uint64_t i = 0; i < 100; ++i) {
    (void)used.Sample(other, {Params(1.0f, 0, 0.9f, 7), i});
    const TokenId a = fresh.Sample(logits, {Params(1.0f, 0, 0.9f, 42), i});
    EXPECT_EQ(a, used.Sample(logits, {Params(1.0f, 0, 0.9f, 42), i}));
    any_difference |= a != fresh.Sample(logits, {Params(1.0f, 0, 0.9f, 43), i});
  }
  EXPECT_TRUE(any_difference);
}

TEST(SamplingTest, UniformDrawsFillTheUnitInterval) {
  double sum = 0.0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = UniformDraw(3, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 0.015);
  EXPECT_NE(UniformDraw(3, 0), UniformDraw(4, 0));
}

TEST(SamplingTest, ForbiddenTokensAreNeverDrawn) {
  Sampler sampler;
  std::vector<float> logits(64, -std::numeric_limits<float>::infinity());
  logits[10] = 0.0f;
  logits[20] = 0.1f;
  for (uint64_t i = 0; i < 100; ++i) {
    const TokenId id = sampler.Sample(logits, {Params(5.0f, 0, 1.0f), i});
    EXPECT_TRUE(id == 10 || id == 20);
  }
}

TEST(SamplingTest, LogitsWithoutANumberAreAnError) {
  Sampler sampler;
  const std::vector<float> logits(64, std::numeric_limits<float>::quiet_NaN());
  EXPECT_EQ(sampler.Sample(logits, {}), kNoToken);
}

TEST(SamplingTest, ParametersOutOfRangeAreNamed) {
  EXPECT_TRUE(ValidateSamplingParams(SamplingParams()).ok());
  EXPECT_NE(ValidateSamplingParams(Params(-1.0f, 0, 1.0f)).message().find("temperature"),
            std::string::npos);
  EXPECT_NE(ValidateSamplingParams(Params(1.0f, 0, 0.0f)).message().find("top_p"),
            std::string::npos);
  EXPECT_FALSE(ValidateSamplingParams(Params(1.0f, 0, 1.5f)).ok());
  EXPECT_FALSE(ValidateSamplingParams(Params(std::nanf(""), 0, 1.0f)).ok());
}

}  // namespace
}  // namespace engram
