#include <cstring>

#include "model_worker/cuda/kernels.h"
#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

class ElementwiseTest : public GpuTest {};

TEST_F(ElementwiseTest, WeightsAreRoundedToNearestEven) {
  std::vector<float> x = RandomFloats(100003, 0, 3, 1);
  x[0] = 1.00390625f;  // halfway: to even, down
  x[1] = 1.01171875f;  // halfway: to even, up
  x[2] = 1e-40f;
  const auto in = Upload(x);
  auto out = Poisoned<Bf16>(x.size());
  ExpectCuda(LaunchToBf16(in.data(), x.size(), out.data(), nullptr));
  const auto got = Download(out);
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(ToFloat(got[i]), Rounded(x[i])) << i;
  }
}

TEST_F(ElementwiseTest, EmbeddingTakesRowsAndLeavesPaddingZero) {
  for (const uint32_t width : {8u, 64u, 5120u}) {
    const auto table = ToBf16(RandomFloats(size_t{50} * width, 0, 1, width));
    const std::vector<int32_t> tokens = {7, 0, 49, -1};
    const auto device_table = Upload(table);
    const auto device_tokens = Upload(tokens);
    auto hidden = Poisoned<float>(4 * size_t{width});
    ExpectCuda(
        LaunchEmbed(device_tokens.data(), device_table.data(), 4, width, hidden.data(), nullptr));
    const auto got = Download(hidden);
    for (size_t row = 0; row < 4; ++row) {
      for (size_t i = 0; i < width; ++i) {
        const float expected =
            tokens[row] < 0 ? 0.0f : ToFloat(table[static_cast<size_t>(tokens[row]) * width + i]);
        ASSERT_EQ(got[row * width + i], expected);
      }
    }
  }
}

TEST_F(ElementwiseTest, RmsNormEqualsTheFormulaAndPicksRows) {
  for (const uint32_t width : {8u, 64u, 1000u, 2560u, 4096u, 8200u}) {
    const uint32_t rows = 5;
    const auto x = RandomFloats(size_t{rows} * width, 0.1f, 2, width);
    const auto weight = RandomFloats(width, 1, 0.3f, width + 1);
    const std::vector<int32_t> picked = {3, -1, 0};
    const auto device_x = Upload(x);
    const auto device_weight = Upload(weight);
    const auto device_picked = Upload(picked);
    auto all = Poisoned<Bf16>(x.size());
    auto some = Poisoned<Bf16>(3 * size_t{width});
    ExpectCuda(LaunchRmsNorm(device_x.data(), device_weight.data(), 1e-6f, nullptr, rows, width,
                             all.data(), nullptr));
    ExpectCuda(LaunchRmsNorm(device_x.data(), device_weight.data(), 1e-6f, device_picked.data(), 3,
                             width, some.data(), nullptr));
    std::vector<double> expected(x.size());
    for (size_t row = 0; row < rows; ++row) {
      double sum = 0;
      for (size_t i = 0; i < width; ++i) sum += double{x[row * width + i]} * x[row * width + i];
      for (size_t i = 0; i < width; ++i) {
        expected[row * width + i] = x[row * width + i] / std::sqrt(sum / width + 1e-6) * weight[i];
      }
    }
    const auto got = Download(all);
    EXPECT_LT(RelativeError(got, expected), 3e-3) << width;
    const auto got_some = Download(some);
    for (size_t i = 0; i < width; ++i) {
      ASSERT_EQ(ToFloat(got_some[i]), ToFloat(got[3 * width + i]));
      ASSERT_EQ(ToFloat(got_some[width + i]), 0.0f);
      ASSERT_EQ(ToFloat(got_some[2 * width + i]), ToFloat(got[i]));
    }
  }
}

TEST_F(ElementwiseTest, SwiGluEqualsTheFormulaForAnyWidth) {
  for (const uint32_t width : {1u, 100u, 256u, 9728u}) {
    const uint32_t rows = 3;
    const auto x = ToBf16(RandomFloats(size_t{rows} * 2 * width, 0, 3, width));
    const auto in = Upload(x);
    auto out = Poisoned<Bf16>(size_t{rows} * width);
    ExpectCuda(LaunchSwiGlu(in.data(), rows, width, out.data(), nullptr));
    std::vector<double> expected;
    for (size_t row = 0; row < rows; ++row) {
      for (size_t i = 0; i < width; ++i) {
        const double gate = ToFloat(x[row * 2 * width + i]);
        const double up = ToFloat(x[row * 2 * width + width + i]);
        expected.push_back(gate / (1 + std::exp(-gate)) * up);
      }
    }
    EXPECT_LT(RelativeError(Download(out), expected), 4e-3) << width;
  }
}

TEST_F(ElementwiseTest, PageEntriesAreSetAndPaddingIsNot) {
  const auto indices = Upload(std::vector<int32_t>{2, -1, 0});
  const auto values = Upload(std::vector<int32_t>{20, 30, 40});
  auto table = Upload(std::vector<int32_t>{1, 1, 1});
  ExpectCuda(LaunchSetPages(indices.data(), values.data(), 3, table.data(), nullptr));
  EXPECT_EQ(Download(table), (std::vector<int32_t>{40, 1, 20}));
}

}  // namespace
}  // namespace engram::gpu
