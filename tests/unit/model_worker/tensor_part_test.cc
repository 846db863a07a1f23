// Several ranks compute what one does, by the bit. The ranks are threads here; MPI's are in
// tests/mpi.
#include "model_worker/tensor_part.h"

#include <cstring>
#include <ostream>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/cpu/cpu_backend.h"
#include "model_worker/weights.h"
#include "tests/reference/sequence_run.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"
#include "tests/support/thread_ranks.h"

namespace engram {
namespace {

using test::Logits;
using test::Prompt;
using test::ScratchDir;
using test::TinyModel;
using test::TinyModelShape;
using testing::HasSubstr;

constexpr Backend::Limits kLimits{8, 128, 200};

ModelConfig ConfigOf(int32_t kv_heads, int32_t intermediate) {
  ModelConfig config;
  config.kv_head_count = kv_heads;
  config.head_count = 2 * kv_heads;
  config.intermediate_size = intermediate;
  return config;
}

TEST(TensorPartTest, AModelIsSharedByPowersOfTwoThatDivideItsKvHeadsAndWidth) {
  EXPECT_EQ(SumBlocks(ConfigOf(8, 12288)), 8u);
  EXPECT_EQ(SumBlocks(ConfigOf(16, 9728)), 8u);
  EXPECT_EQ(SumBlocks(ConfigOf(4, 100)), 4u);
  EXPECT_EQ(SumBlocks(ConfigOf(8, 100)), 4u);
  EXPECT_EQ(SumBlocks(ConfigOf(1, 768)), 1u);
  EXPECT_EQ(SumBlocks(ConfigOf(6, 101)), 1u);
}

TEST(TensorPartTest, AnotherNumberOfRanksIsRefusedAndTheAllowedOnesAreNamed) {
  const ModelConfig config = ConfigOf(4, 768);
  for (const uint32_t count : {1u, 2u, 4u}) {
    EXPECT_TRUE(CheckTensorPart(config, {count - 1, count}).ok()) << count;
  }
  for (const uint32_t count : {0u, 3u, 5u, 6u, 8u, 16u}) {
    const Status status = CheckTensorPart(config, {0, count});
    EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << count;
    EXPECT_THAT(status.message(), HasSubstr("allowed are 1, 2, 4 "));
    EXPECT_THAT(status.message(), HasSubstr("num_key_value_heads = 4"));
  }
}

TEST(TensorPartTest, VocabularyPartsCoverItOnce) {
  for (const int32_t vocabulary : {1, 7, 600, 151936}) {
    for (const uint32_t count : {1u, 2u, 4u, 8u}) {
      int64_t next = 0;
      for (uint32_t rank = 0; rank < count; ++rank) {
        const IndexRange range = VocabularyPart(vocabulary, {rank, count});
        EXPECT_EQ(range.begin, next);
        EXPECT_GE(range.size(), 0);
        next = range.end;
      }
      EXPECT_EQ(next, vocabulary);
    }
  }
}

TEST(TensorPartTest, PartsOfTheWeightsAreTheWholeAndCountTheSame) {
  ScratchDir scratch;
  TinyModelShape shape;
  shape.head_count = 8;
  shape.kv_head_count = 4;
  const TinyModel model = TinyModel::Write(shape, scratch.path());
  const auto config = ReadModelConfig(model.dir());
  ASSERT_TRUE(config.has_value());
  const auto whole = LoadWeights(model.dir(), *config);
  ASSERT_TRUE(whole.has_value());
  const LayerWeights& layer = whole->layers[1];
  constexpr int64_t kParts = 4;
  for (uint32_t rank = 0; rank < kParts; ++rank) {
    const auto part = LoadWeights(model.dir(), *config, {rank, kParts});
    ASSERT_TRUE(part.has_value()) << part.error().ToString();
    EXPECT_EQ(part->parameters_non_embedding(), whole->parameters_non_embedding());
    const LayerWeights& of_part = part->layers[1];
    for (const auto& [all, some] :
         {std::pair{&layer.q, &of_part.q}, std::pair{&layer.k, &of_part.k},
          std::pair{&layer.v, &of_part.v}, std::pair{&layer.gate, &of_part.gate},
          std::pair{&layer.up, &of_part.up}}) {
      ASSERT_EQ(some->rows, all->rows / kParts);
      ASSERT_EQ(some->columns, all->columns);
      for (int64_t i = 0; i < some->rows * some->columns; ++i) {
        ASSERT_EQ(some->values[static_cast<size_t>(i)],
                  all->values[static_cast<size_t>(rank * some->rows * all->columns + i)]);
      }
    }
    for (const auto& [all, some] :
         {std::pair{&layer.o, &of_part.o}, std::pair{&layer.down, &of_part.down}}) {
      ASSERT_EQ(some->rows, all->rows);
      ASSERT_EQ(some->columns, all->columns / kParts);
      for (int64_t row = 0; row < some->rows; ++row) {
        for (int64_t c = 0; c < some->columns; ++c) {
          ASSERT_EQ(
              some->values[static_cast<size_t>(row * some->columns + c)],
              all->values[static_cast<size_t>(row * all->columns + rank * some->columns + c)]);
        }
      }
    }
    EXPECT_EQ(of_part.input_norm, layer.input_norm);
    EXPECT_EQ(part->embedding.values, whole->embedding.values);
    EXPECT_EQ(part->engram[0].keys_value.values, whole->engram[0].keys_value.values);
  }
}

struct Case {
  const char* name;
  TinyModelShape shape;
};
void PrintTo(const Case& of, std::ostream* out) { *out << of.name; }

std::vector<Case> Cases() {
  TinyModelShape v41;
  v41.head_count = 16;
  v41.kv_head_count = 8;
  v41.head_dim = 16;
  v41.intermediate_size = 168;  // 21 for each of 8: no multiple of a vector
  TinyModelShape demo = v41;
  demo.variant = Variant::kDemo;
  demo.row_values = 20;
  demo.tied = false;
  TinyModelShape wide = v41;  // several panels, of unlike width among the ranks
  wide.hidden_size = 320;
  wide.intermediate_size = 1184;
  wide.vocabulary_size = 1003;
  wide.layer_count = 2;
  wide.engram_layers = {1};
  // Every rank's widths are multiples of 16, as in published models.
  TinyModelShape even = v41;
  even.head_dim = 32;
  even.intermediate_size = 8 * 48;
  even.vocabulary_size = 1024;
  TinyModelShape plain = v41;
  plain.variant = std::nullopt;
  return {{"V41", v41}, {"Demo", demo}, {"Wide", wide}, {"Even", even}, {"Plain", plain}};
}

class RanksTest : public testing::TestWithParam<Case> {};

TEST_P(RanksTest, LogitsHaveTheBitsOfOneRank) {
  ScratchDir scratch;
  const TinyModel model = TinyModel::Write(GetParam().shape, scratch.path());
  const bool dead = GetParam().shape.variant == Variant::kV41;
  std::vector<Prompt> prompts;
  for (const uint32_t tokens : {40u, 3u, 17u, 100u, 25u}) {
    prompts.push_back(test::RandomPrompt(model.shape(), tokens, dead, tokens));
  }
  const test::Schedule schedule{13, true};
  const auto one = test::OpenBackend(model, 2, kLimits);
  ASSERT_NE(one, nullptr);
  const Logits expected = RunSequences(one.get(), model, prompts, schedule);
  for (const uint32_t ranks : {2u, 4u, 8u}) {
    Logits logits;
    test::RunRanks(ranks, [&](Collective* collective) {
      const auto backend = test::OpenBackend(model, 1, kLimits, collective);
      ASSERT_NE(backend, nullptr);
      EXPECT_EQ(backend->parameters_non_embedding(), one->parameters_non_embedding());
      Logits mine = RunSequences(backend.get(), model, prompts, schedule);
      if (collective->rank() == 0) logits = std::move(mine);
    });
    for (size_t p = 0; p < prompts.size(); ++p) {
      size_t met = 0;
      for (size_t t = 0; t < expected[p].size(); ++t) {
        ASSERT_EQ(logits[p][t].size(), expected[p][t].size());
        if (logits[p][t].empty()) continue;
        ++met;
        EXPECT_EQ(std::memcmp(logits[p][t].data(), expected[p][t].data(),
                              logits[p][t].size() * sizeof(float)),
                  0)
            << ranks << " ranks, prompt " << p << ", position " << t;
      }
      EXPECT_GT(met, 0u);
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Models, RanksTest, testing::ValuesIn(Cases()),
                         [](const auto& model) { return std::string(model.param.name); });

}  // namespace
}  // namespace engram
