// Row decoding bit by bit against the core's codec, fusion against model_worker/fusion.
#include <cstring>

#include "model_worker/cuda/kernels.h"
#include "model_worker/fusion.h"
#include "tests/gpu/gpu_test.h"

namespace engram::gpu {
namespace {

class EngramKernelsTest : public GpuTest {};

// Random bytes: every E4M3 code and every scale, NaN and subnormal among them.
std::vector<std::byte> RandomBytes(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(count);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random() & 0xff);
  return bytes;
}

// With ids the rows are of a table, some of them used again and some not at all.
void ExpectRowsDecoded(RowFormat format, uint32_t columns, uint32_t row_values, bool with_dead,
                       bool with_ids = false) {
  const uint32_t tokens = 37, rows = 48;
  const uint32_t row_bytes = RowBytes(format, row_values);
  const uint32_t table_rows = tokens * columns - 5;
  const auto staged =
      RandomBytes(size_t{with_ids ? table_rows : tokens * columns} * row_bytes, row_values);
  std::vector<uint8_t> dead(tokens, 0);
  if (with_dead) dead[0] = dead[20] = dead[36] = 1;
  const auto device_staged = Upload(staged);
  const auto device_dead = Upload(dead);
  std::vector<uint32_t> ids(size_t{tokens} * columns);
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = static_cast<uint32_t>(with_ids ? (i * 7919 + 3) % table_rows : i);
    // Not looked at: it would be far outside.
    if (dead[i / columns] != 0) ids[i] = UINT32_MAX;
  }
  const auto device_ids = Upload(ids);
  const size_t width = size_t{columns} * row_values;
  auto values = Poisoned<Bf16>(rows * width);
  auto dead_out = Poisoned<uint8_t>(rows);
  const StagedRows staged_rows{device_staged.data(),
                               with_dead ? device_dead.data() : nullptr,
                               tokens,
                               columns,
                               row_values,
                               format,
                               with_ids ? device_ids.data() : nullptr};
  ExpectCuda(LaunchDecodeRows(staged_rows, rows, values.data(), dead_out.data(), nullptr));
  const auto got = Download(values);
  const auto got_dead = Download(dead_out);
  std::vector<float> expected(row_values);
  for (size_t token = 0; token < rows; ++token) {
    const bool live = token < tokens && dead[token] == 0;
    ASSERT_EQ(got_dead[token], live ? 0 : 1);
    for (size_t c = 0; c < columns; ++c) {
      std::fill(expected.begin(), expected.end(), 0.0f);
      if (live) {
        DecodeRow(format, staged.data() + ids[token * columns + c] * size_t{row_bytes}, row_values,
                  expected.data());
      }
      for (size_t i = 0; i < row_values; ++i) {
        const float value = ToFloat(got[token * width + c * row_values + i]);
        const float wanted = Rounded(expected[i]);
        if (std::isnan(wanted)) {
          ASSERT_TRUE(std::isnan(value));
        } else {
          uint32_t bits, wanted_bits;
          std::memcpy(&bits, &value, 4);
          std::memcpy(&wanted_bits, &wanted, 4);
          ASSERT_EQ(bits, wanted_bits) << token << " " << c << " " << i;
        }
      }
    }
  }
}

TEST_F(EngramKernelsTest, Fp8RowsDecodeToTheCodecsBits) {
  ExpectRowsDecoded(RowFormat::kF8E4M3ScaleE8M0, 24, 256, false);
  ExpectRowsDecoded(RowFormat::kF8E4M3ScaleE8M0, 24, 256, true);
  ExpectRowsDecoded(RowFormat::kF8E4M3ScaleE8M0, 3, 32, true);  // rows of 33 bytes
}

TEST_F(EngramKernelsTest, PlainRowsDecodeToTheCodecsNumbersInBf16) {
  ExpectRowsDecoded(RowFormat::kBf16, 4, 64, true);
  ExpectRowsDecoded(RowFormat::kF16, 4, 20, false);
  ExpectRowsDecoded(RowFormat::kF32, 16, 80, true);
}

TEST_F(EngramKernelsTest, RowsOfATableDecodeWhereTheirIdsSay) {
  ExpectRowsDecoded(RowFormat::kF8E4M3ScaleE8M0, 24, 256, false, true);
  ExpectRowsDecoded(RowFormat::kF8E4M3ScaleE8M0, 3, 32, true, true);  // rows of 33 bytes
  ExpectRowsDecoded(RowFormat::kBf16, 4, 64, true, true);
  ExpectRowsDecoded(RowFormat::kF32, 16, 80, false, true);
}

TEST_F(EngramKernelsTest, V41FusionEqualsTheCpus) {
  for (const uint32_t width : {64u, 200u, 2560u, 5120u}) {
    const uint32_t rows = 7;
    EngramLayerWeights weights;
    weights.query_norm = RandomFloats(width, 1, 0.3f, 1);
    weights.key_norm = RandomFloats(width, 1, 0.3f, 2);
    const auto kv = ToBf16(RandomFloats(size_t{rows} * 2 * width, 0, 1, 3));
    const auto hidden = RandomFloats(size_t{rows} * width, 0, 2, 4);
    const std::vector<uint8_t> dead = {0, 0, 1, 0, 0, 1, 0};
    std::vector<float> product(width);
    for (size_t i = 0; i < width; ++i) product[i] = weights.query_norm[i] * weights.key_norm[i];
    const auto device_kv = Upload(kv);
    const auto device_product = Upload(product);
    const auto device_dead = Upload(dead);
    auto device_hidden = Upload(hidden);
    ExpectCuda(LaunchFuseV41(device_kv.data(), device_product.data(), device_dead.data(), 1e-6f,
                             rows, width, device_hidden.data(), nullptr));
    std::vector<float> expected = hidden;
    const auto kv_floats = ToFloats(kv);
    for (size_t row = 0; row < rows; ++row) {
      if (dead[row] != 0) continue;
      FuseV41(weights, static_cast<int32_t>(width), 1e-6f, kv_floats.data() + row * 2 * width,
              expected.data() + row * width);
    }
    EXPECT_LT(RelativeError(Download(device_hidden), expected), 1e-6) << width;
  }
}

TEST_F(EngramKernelsTest, V41GateOfZeroDotProductIsAboveOneHalf) {
  const uint32_t width = 64;
  std::vector<float> kv(2 * width, 0.0f);
  std::fill(kv.begin() + width, kv.end(), 1.0f);
  const auto device_kv = Upload(ToBf16(kv));
  const auto product = Upload(std::vector<float>(width, 1.0f));
  const auto dead = Upload(std::vector<uint8_t>{0});
  auto hidden = Upload(std::vector<float>(width, 0.0f));
  ExpectCuda(LaunchFuseV41(device_kv.data(), product.data(), dead.data(), 1e-6f, 1, width,
                           hidden.data(), nullptr));
  EXPECT_NEAR(Download(hidden)[0], 1 / (1 + std::exp(-1e-3)), 1e-6);
}

// Whole sequences through gate and convolution in chunks, two of them in turn, against the CPU's
// functions on the whole.
void ExpectDemoFused(uint32_t width, uint32_t chunk, uint32_t kernel, uint32_t dilation) {
  const uint32_t tokens = 31;
  EngramLayerWeights weights;
  weights.query_norm = RandomFloats(width, 1, 0.3f, 1);
  weights.key_norm = RandomFloats(width, 1, 0.3f, 2);
  weights.bias = RandomFloats(2 * size_t{width}, 0, 0.3f, 3);
  weights.conv_norm = RandomFloats(width, 1, 0.3f, 4);
  weights.conv = RandomFloats(size_t{width} * kernel, 0, 0.5f, 5);
  std::vector<float> product(width);
  for (size_t i = 0; i < width; ++i) product[i] = weights.query_norm[i] * weights.key_norm[i];
  const auto device_product = Upload(product);
  const auto bias = Upload(weights.bias);
  const auto conv_norm = Upload(weights.conv_norm);
  const auto conv = Upload(weights.conv);
  const DemoFusion fusion{
      bias.data(), device_product.data(), conv_norm.data(), conv.data(), width, kernel, dilation};
  // Garbage in the history: a sequence's start must not see it.
  auto history = Poisoned<float>(2 * size_t{fusion.history_rows()} * width);
  for (const uint32_t seed : {10u, 20u}) {
    std::vector<std::vector<float>> kv, hidden, expected;
    for (uint32_t s = 0; s < 2; ++s) {
      kv.push_back(ToFloats(ToBf16(RandomFloats(size_t{tokens} * 2 * width, 0, 1, seed + s))));
      hidden.push_back(RandomFloats(size_t{tokens} * width, 0, 1, seed + s + 5));
      expected.push_back(hidden.back());
      std::vector<float> gated(size_t{tokens} * width);
      std::vector<float> window((fusion.history_rows() + size_t{tokens}) * width, 0.0f);
      for (size_t t = 0; t < tokens; ++t) {
        GateDemo(weights, static_cast<int32_t>(width), kv[s].data() + t * 2 * width,
                 hidden[s].data() + t * width, gated.data() + t * width);
        NormConvInput(weights, 0, static_cast<int32_t>(width), gated.data() + t * width,
                      window.data() + (fusion.history_rows() + t) * width);
        ConvolveDemo(weights, static_cast<int32_t>(width), static_cast<int32_t>(kernel),
                     static_cast<int32_t>(dilation), gated.data() + t * width,
                     window.data() + (fusion.history_rows() + t) * width,
                     static_cast<ptrdiff_t>(width), expected[s].data() + t * width);
      }
    }
    std::vector<std::vector<float>> got(2);
    for (uint32_t begin = 0; begin < tokens; begin += chunk) {
      const uint32_t count = std::min(chunk, tokens - begin);
      const uint32_t rows = 2 * count + 1;  // the last is padding
      std::vector<float> step_kv, step_hidden;
      std::vector<int32_t> row_parts, slots, positions;
      for (uint32_t s = 0; s < 2; ++s) {
        const auto at = static_cast<ptrdiff_t>(begin), end = static_cast<ptrdiff_t>(begin + count);
        step_kv.insert(step_kv.end(), kv[s].begin() + at * 2 * width,
                       kv[s].begin() + end * 2 * width);
        step_hidden.insert(step_hidden.end(), hidden[s].begin() + at * width,
                           hidden[s].begin() + end * width);
        for (uint32_t t = 0; t < count; ++t) {
          row_parts.push_back(static_cast<int32_t>(s));
          slots.push_back(static_cast<int32_t>(1 - s));
          positions.push_back(static_cast<int32_t>(begin + t));
        }
      }
      step_kv.resize(size_t{rows} * 2 * width, 0.0f);
      step_hidden.resize(size_t{rows} * width, 0.0f);
      for (auto* array : {&row_parts, &slots, &positions}) array->push_back(-1);
      const auto length = static_cast<int32_t>(count);
      const auto device_kv = Upload(ToBf16(step_kv));
      auto device_hidden = Upload(step_hidden);
      const auto device_row_parts = Upload(row_parts);
      const auto device_slots = Upload(slots);
      const auto device_positions = Upload(positions);
      const auto part_slots = Upload(std::vector<int32_t>{1, 0, -1});
      const auto part_begins = Upload(std::vector<int32_t>{0, length, -1});
      const auto part_lengths = Upload(std::vector<int32_t>{length, length, 0});
      auto gated = Poisoned<float>(size_t{rows} * width);
      auto normed = Poisoned<float>(size_t{rows} * width);
      ExpectCuda(LaunchGateDemo(fusion, device_kv.data(), device_hidden.data(), rows, gated.data(),
                                normed.data(), nullptr));
      ExpectCuda(LaunchConvolveDemo(
          fusion,
          {device_row_parts.data(), part_slots.data(), part_begins.data(), part_lengths.data()},
          {device_slots.data(), device_positions.data()}, rows, 3, gated.data(), normed.data(),
          history.data(), device_hidden.data(), nullptr));
      const auto out = Download(device_hidden);
      for (uint32_t s = 0; s < 2; ++s) {
        const auto at = out.begin() + static_cast<ptrdiff_t>(s * count * width);
        got[s].insert(got[s].end(), at, at + static_cast<ptrdiff_t>(count * width));
      }
    }
    for (uint32_t s = 0; s < 2; ++s) EXPECT_LT(RelativeError(got[s], expected[s]), 1e-6);
  }
}

TEST_F(EngramKernelsTest, DemoFusionEqualsTheCpusHoweverASequenceIsCut) {
  for (const uint32_t chunk : {1u, 2u, 5u, 31u}) ExpectDemoFused(64, chunk, 4, 3);
  ExpectDemoFused(1000, 4, 4, 3);
  ExpectDemoFused(64, 3, 1, 3);  // no history
  ExpectDemoFused(64, 3, 7, 2);
}

}  // namespace
}  // namespace engram::gpu
