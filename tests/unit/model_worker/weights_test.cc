#include "model_worker/weights.h"

#include <bit>
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "engram/table/row_codec.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

using test::TinyModel;
using test::TinyModelShape;
using testing::AllOf;
using testing::HasSubstr;

Result<ModelWeights> Load(const std::filesystem::path& dir) {
  const auto config = ReadModelConfig(dir);
  EXPECT_TRUE(config.has_value()) << config.error().ToString();
  return LoadWeights(dir, *config);
}

// Replaces `from` by `to`, of the same length, in the safetensors header.
void PatchHeader(const std::filesystem::path& dir, const std::string& from, const std::string& to) {
  ASSERT_EQ(from.size(), to.size());
  const auto file = dir / "model.safetensors";
  std::string bytes = test::ReadFile(file);
  const size_t at = bytes.find(from);
  ASSERT_NE(at, std::string::npos) << from;
  bytes.replace(at, from.size(), to);
  std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
}

TEST(WeightsTest, ParametersAreCountedWithoutEmbeddingsAndTables) {
  const test::ScratchDir scratch;
  TinyModelShape shape;
  shape.tied = false;
  (void)TinyModel::Write(shape, scratch.path());
  const auto weights = Load(scratch.path());
  ASSERT_TRUE(weights.has_value()) << weights.error().ToString();
  const uint64_t d = 64, inner = 100, q = 4 * 24, kv = 2 * 24, values = 2 * 2 * 32;
  const uint64_t layer = d * q * 2 + d * kv * 2 + 3 * d * inner + 2 * d + 2 * 24;
  const uint64_t fusion = 2 * d * values + 2 * d;
  EXPECT_EQ(weights->parameters_non_embedding(), 4 * layer + 2 * fusion + d);
  ASSERT_TRUE(weights->lm_head.has_value());
  EXPECT_EQ(weights->lm_head->rows, 600);
}

TEST(WeightsTest, EveryDtypeIsWidenedExactly) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kBf16, Dtype::kF16}) {
    const test::ScratchDir scratch;
    TinyModelShape shape;
    shape.dtype = dtype;
    (void)TinyModel::Write(shape, scratch.path());
    const auto weights = Load(scratch.path());
    ASSERT_TRUE(weights.has_value()) << weights.error().ToString();
    const auto index = TensorIndex::Open(scratch.path());
    const TensorInfo* info = index->Find("layers.2.mlp.up_proj.weight");
    std::vector<std::byte> bytes(info->byte_count);
    ASSERT_TRUE(TensorReader::Open(*info)->Read(0, bytes).ok());
    const Matrix& up = weights->layers[2].up;
    ASSERT_EQ(up.values.size(), 6400u);
    for (size_t i = 0; i < up.values.size(); ++i) {
      float expected;
      uint16_t half;
      if (dtype == Dtype::kF32) {
        std::memcpy(&expected, bytes.data() + 4 * i, 4);
      } else {
        std::memcpy(&half, bytes.data() + 2 * i, 2);
        expected = dtype == Dtype::kBf16 ? Bf16ToFloat(half) : F16ToFloat(half);
      }
      ASSERT_EQ(up.values[i], expected) << i;
    }
  }
}

TEST(WeightsTest, BranchesAreCountedInBothVariants) {
  for (const Variant variant : {Variant::kV41, Variant::kDemo}) {
    const test::ScratchDir scratch;
    TinyModelShape shape;
    shape.variant = variant;
    shape.branch_count = 4;
    (void)TinyModel::Write(shape, scratch.path());
    const auto weights = Load(scratch.path());
    ASSERT_TRUE(weights.has_value()) << weights.error().ToString();
    EXPECT_EQ(weights->engram[1].branch_count, 4);
    EXPECT_EQ(weights->engram[1].keys_value.rows, 5 * 64);
    EXPECT_EQ(weights->engram[1].query_norm.size(), 4u * 64);
    EXPECT_EQ(weights->engram[1].bias.size(), variant == Variant::kDemo ? 5u * 64 : 0u);
  }
}

TEST(WeightsTest, RowFormatComesFromTheTable) {
  const test::ScratchDir scratch;
  TinyModelShape shape;
  shape.variant = Variant::kDemo;
  shape.demo_table_dtype = Dtype::kBf16;
  (void)TinyModel::Write(shape, scratch.path());
  EXPECT_EQ(Load(scratch.path())->row_format, RowFormat::kBf16);
}

TEST(WeightsTest, MissingTensorIsNamed) {
  const test::ScratchDir scratch;
  (void)TinyModel::Write({}, scratch.path());
  PatchHeader(scratch.path(), "layers.1.self_attn.q_norm.weight",
              "layers.1.self_attn.x_norm.weight");
  const auto weights = Load(scratch.path());
  ASSERT_FALSE(weights.has_value());
  EXPECT_EQ(weights.error().code(), StatusCode::kNotFound);
  EXPECT_THAT(weights.error().message(), HasSubstr("layers.1.self_attn.q_norm.weight"));
}

TEST(WeightsTest, WrongShapeNamesFileTensorExpectedAndFound) {
  const test::ScratchDir scratch;
  (void)TinyModel::Write({}, scratch.path());
  const auto config = ReadModelConfig(scratch.path());
  ASSERT_TRUE(config.has_value());
  ModelConfig other = *config;
  other.intermediate_size = 96;
  const auto weights = LoadWeights(scratch.path(), other);
  ASSERT_FALSE(weights.has_value());
  EXPECT_EQ(weights.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(weights.error().message(),
              AllOf(HasSubstr("model.safetensors"), HasSubstr("layers.0.mlp.gate_proj.weight"),
                    HasSubstr("[96, 64]"), HasSubstr("[100, 64]")));
}

TEST(WeightsTest, WrongWidthOfFusionIsRefused) {
  const test::ScratchDir scratch;
  (void)TinyModel::Write({}, scratch.path());
  ModelConfig config = *ReadModelConfig(scratch.path());
  config.engram->head_count = 3;
  const auto weights = LoadWeights(scratch.path(), config);
  ASSERT_FALSE(weights.has_value());
  EXPECT_THAT(weights.error().message(), AllOf(HasSubstr("layers.1.engram.wkv.weight"),
                                               HasSubstr("[128, 192]"), HasSubstr("[128, 128]")));
}

TEST(WeightsTest, WrongDtypeNamesExpectedAndFound) {
  const test::ScratchDir scratch;
  (void)TinyModel::Write({}, scratch.path());
  // The same bytes a value, so that the header stays consistent.
  std::string bytes = test::ReadFile(scratch.path() / "model.safetensors");
  const size_t name = bytes.find("\"norm.weight\"");
  ASSERT_NE(name, std::string::npos);
  const size_t dtype = bytes.find("\"F32\"", name);
  bytes.replace(dtype, 5, "\"I32\"");
  std::ofstream(scratch.path() / "model.safetensors", std::ios::binary) << bytes;
  const auto weights = Load(scratch.path());
  ASSERT_FALSE(weights.has_value());
  EXPECT_EQ(weights.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(weights.error().message(), HasSubstr("norm.weight"));
}

TEST(WeightsTest, TruncatedFileIsRefused) {
  const test::ScratchDir scratch;
  (void)TinyModel::Write({}, scratch.path());
  const auto file = scratch.path() / "model.safetensors";
  std::filesystem::resize_file(file, std::filesystem::file_size(file) - 1);
  const auto weights = Load(scratch.path());
  ASSERT_FALSE(weights.has_value());
  EXPECT_THAT(weights.error().message(), HasSubstr("model.safetensors"));
}

}  // namespace
}  // namespace engram
