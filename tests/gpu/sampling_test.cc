// The kernel that draws tokens, against the CPU's sampler.
#include "model_worker/sampling.h"

#include <limits>

#include "model_worker/cuda/kernels.h"
#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

#ifdef ENGRAM_CUDA_ON_HOST
constexpr uint32_t kRows = 5, kLargeRows = 1;
constexpr uint64_t kSeeds = 6;
#else
constexpr uint32_t kRows = 64, kLargeRows = 16;
constexpr uint64_t kSeeds = 40;
#endif

class SamplingKernelTest : public GpuTest {};

// One token by each draw, from rows [draws][stride] of which the first `vocabulary` count.
std::vector<int32_t> Drawn(const std::vector<float>& logits, uint32_t vocabulary,
                           const std::vector<TokenDraw>& draws) {
  std::vector<DeviceDraw> on_device;
  for (const TokenDraw& draw : draws) on_device.push_back(DrawOnDevice(draw));
  const auto device_logits = Upload(logits);
  const auto device_draws = Upload(on_device);
  auto tokens = Poisoned<int32_t>(draws.size());
  const auto rows = static_cast<uint32_t>(draws.size());
  ExpectCuda(LaunchSample(device_logits.data(), static_cast<uint32_t>(logits.size() / rows),
                          vocabulary, device_draws.data(), rows, tokens.data(), nullptr));
  return Download(tokens);
}

int32_t DrawnOne(const std::vector<float>& logits, const TokenDraw& draw = {}) {
  return Drawn(logits, static_cast<uint32_t>(logits.size()), {draw}).front();
}

TokenDraw DrawOf(float temperature, uint32_t top_k, float top_p, uint64_t seed) {
  TokenDraw draw;
  draw.params = {temperature, top_k, top_p, seed};
  draw.counter = seed * 3;
  return draw;
}

TEST_F(SamplingKernelTest, GreedyTakesTheLowestIdOfTheHighestLogits) {
  EXPECT_EQ(DrawnOne({3.0f}), 0);
  EXPECT_EQ(DrawnOne({-0.0f, 0.0f, 0.0f}), 0);
  EXPECT_EQ(DrawnOne({kNan, -kInfinity, -5.0f, kNan, -5.0f}), 2);
  for (const uint32_t count : {31u, 512u, 513u, 5000u, 151'936u}) {
    std::vector<float> logits(count, -1.0f);
    logits[count - 1] = 2.0f;
    EXPECT_EQ(DrawnOne(logits), static_cast<int32_t>(count) - 1);
    logits[count / 2] = 2.0f;
    EXPECT_EQ(DrawnOne(logits), static_cast<int32_t>(count / 2));
    EXPECT_EQ(DrawnOne(logits, DrawOf(1.5f, 1, 1.0f, 4)), static_cast<int32_t>(count / 2));
    EXPECT_EQ(DrawnOne(logits, DrawOf(1.5f, 0, 1e-6f, 4)), static_cast<int32_t>(count / 2));
  }
}

TEST_F(SamplingKernelTest, NoFiniteLogitIsNoToken) {
  for (const TokenDraw& draw : {TokenDraw(), DrawOf(1, 0, 1, 1), DrawOf(1, 3, 0.5f, 1)}) {
    EXPECT_EQ(DrawnOne({kNan, -kInfinity, kNan}, draw), kNoToken);
    EXPECT_EQ(DrawnOne({1.0f, kInfinity, 2.0f}, draw), kNoToken);
  }
}

TEST_F(SamplingKernelTest, OnlyTheVocabularyIsDrawn) {
  // The last two of each row are padding, and would win.
  const std::vector<float> logits = {1, 2, 9, 9, 2, 1, 9, 9};
  EXPECT_EQ(Drawn(logits, 2, {{}, {}}), (std::vector<int32_t>{1, 0}));
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    for (const int32_t token :
         Drawn(logits, 2, {DrawOf(5, 0, 1, seed), DrawOf(5, 3, 0.9f, seed)})) {
      EXPECT_LT(token, 2);
    }
  }
}

// Weights are rounded here and not there, so a draw at the border of two tokens may differ.
TEST_F(SamplingKernelTest, DrawsAreTheCpuSamplers) {
  Sampler sampler;
  for (const uint32_t vocabulary : {1u, 2u, 40u, 1000u, 5003u, 151'936u}) {
    const uint32_t rows = vocabulary > 100'000 ? kLargeRows : kRows;
    const uint32_t stride = vocabulary + 8;
    size_t differing = 0, drawn = 0;
    for (const auto& [temperature, top_k, top_p] : {std::tuple{1.0f, 0u, 1.0f},
                                                    {0.7f, 5u, 1.0f},
                                                    {1.3f, 0u, 0.8f},
                                                    {1.0f, 300u, 0.6f},
                                                    {2.0f, 40u, 0.95f},
                                                    {100.0f, 0u, 0.999f},
                                                    {1.0f, 1'000'000u, 1.0f},
                                                    {1e-3f, 0u, 0.9f},
                                                    {1e-40f, 7u, 0.5f}}) {
      auto logits = RandomFloats(size_t{rows} * stride, 0, 3, vocabulary + top_k);
      for (size_t i = 5; i < logits.size(); i += 97) logits[i] = i % 2 == 0 ? kNan : -kInfinity;
      for (size_t row = 0; row < rows; ++row) logits[row * stride] = 1.0f;
      std::vector<TokenDraw> draws;
      for (uint64_t row = 0; row < rows; ++row) {
        draws.push_back(DrawOf(temperature, top_k, top_p, row + vocabulary));
      }
      const auto tokens = Drawn(logits, vocabulary, draws);
      for (size_t row = 0; row < rows; ++row) {
        const auto row_logits = std::span(logits).subspan(row * stride, vocabulary);
        differing += tokens[row] != sampler.Sample(row_logits, draws[row]);
        ++drawn;
      }
      // In every run.
      if (vocabulary == 1000) {
        EXPECT_EQ(Drawn(logits, vocabulary, draws), tokens);
      }
    }
    EXPECT_LE(differing, drawn / 300) << "of a vocabulary of " << vocabulary;
  }
}

TEST_F(SamplingKernelTest, EqualLogitsAtTheBorderKeepTheLowerIds) {
  std::vector<float> logits(2000, 1.0f);
  std::vector<int> counts(4, 0);
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const int32_t by_count = DrawnOne(logits, DrawOf(1, 4, 1, seed));
    ASSERT_LT(by_count, 4);
    ++counts[static_cast<size_t>(by_count)];
    EXPECT_LT(DrawnOne(logits, DrawOf(1, 0, 0.25f, seed)), 500);
    EXPECT_LT(DrawnOne(logits, DrawOf(1, 100, 0.25f, seed)), 25);
  }
  for (const int count : counts) EXPECT_GT(count, 0);
  logits[1999] = 3.0f;  // and three of the ties
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    const int32_t token = DrawnOne(logits, DrawOf(10, 4, 1, seed));
    EXPECT_TRUE(token < 3 || token == 1999) << token;
  }
}

TEST_F(SamplingKernelTest, LogitsAtTheEndsOfFloatAreDrawn) {
  const float most = std::numeric_limits<float>::max();
  const float least = std::numeric_limits<float>::denorm_min();
  for (uint64_t seed = 0; seed < kSeeds; ++seed) {
    EXPECT_EQ(DrawnOne({-most, most, 0}, DrawOf(100, 2, 0.99f, seed)), 1);
    const int32_t token = DrawnOne({least, 0, -least, -most}, DrawOf(1, 3, 1, seed));
    EXPECT_TRUE(token >= 0 && token < 3) << token;
  }
}

}  // namespace
}  // namespace engram::gpu
