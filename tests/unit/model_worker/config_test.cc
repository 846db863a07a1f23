#include <fstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model_worker/model_config.h"
#include "tests/reference/tiny_model.h"
#include "tests/support/child_process.h"

namespace engram {
namespace {

using Json = nlohmann::json;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// The keys of a published Qwen3 config.json.
Json Published() {
  return {{"architectures", {"Qwen3ForCausalLM"}},
          {"attention_bias", false},
          {"attention_dropout", 0.0},
          {"bos_token_id", 151643},
          {"eos_token_id", 151645},
          {"head_dim", 128},
          {"hidden_act", "silu"},
          {"hidden_size", 1024},
          {"initializer_range", 0.02},
          {"intermediate_size", 3072},
          {"max_position_embeddings", 40960},
          {"max_window_layers", 28},
          {"model_type", "qwen3"},
          {"num_attention_heads", 16},
          {"num_hidden_layers", 28},
          {"num_key_value_heads", 8},
          {"rms_norm_eps", 1e-06},
          {"rope_scaling", nullptr},
          {"rope_theta", 1000000},
          {"sliding_window", nullptr},
          {"tie_word_embeddings", true},
          {"torch_dtype", "bfloat16"},
          {"use_cache", true},
          {"use_sliding_window", false},
          {"vocab_size", 151936}};
}

Result<ModelConfig> Parse(const Json& json) { return ParseModelConfig(json.dump(), "config.json"); }

TEST(ModelConfigTest, PublishedQwen3IsRead) {
  const auto config = Parse(Published());
  ASSERT_TRUE(config.has_value()) << config.error().ToString();
  EXPECT_EQ(config->hidden_size, 1024);
  EXPECT_EQ(config->intermediate_size, 3072);
  EXPECT_EQ(config->layer_count, 28);
  EXPECT_EQ(config->head_count, 16);
  EXPECT_EQ(config->kv_head_count, 8);
  EXPECT_EQ(config->head_dim, 128);
  EXPECT_FLOAT_EQ(config->rms_norm_eps, 1e-6f);
  EXPECT_DOUBLE_EQ(config->rope_theta, 1e6);
  EXPECT_EQ(config->vocabulary_size, 151936);
  EXPECT_EQ(config->positions_max, 40960);
  EXPECT_TRUE(config->tie_word_embeddings);
  EXPECT_THAT(config->eos_token_ids, ElementsAre(151645));
  EXPECT_FALSE(config->engram.has_value());
  EXPECT_EQ(config->engram_values(), 0);
}

TEST(ModelConfigTest, EosMayBeAList) {
  Json json = Published();
  json["eos_token_id"] = {151645, 151643};
  EXPECT_THAT(Parse(json)->eos_token_ids, ElementsAre(151645, 151643));
}

TEST(ModelConfigTest, KeysMayStandInTextConfig) {
  const Json json = {{"model_type", "something_multimodal"}, {"text_config", Published()}};
  const auto config = Parse(json);
  ASSERT_TRUE(config.has_value()) << config.error().ToString();
  EXPECT_EQ(config->layer_count, 28);
}

TEST(ModelConfigTest, RopeThetaMayStandInRopeParameters) {
  Json json = Published();
  json.erase("rope_theta");
  json.erase("rope_scaling");
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5e5}};
  EXPECT_DOUBLE_EQ(Parse(json)->rope_theta, 5e5);
}

struct Refusal {
  const char* key;
  Json value;
  StatusCode code;
};

class ModelConfigRefusalTest : public testing::TestWithParam<Refusal> {};

TEST_P(ModelConfigRefusalTest, NamesFileAndKey) {
  Json json = Published();
  if (GetParam().value == "absent") {
    json.erase(GetParam().key);
  } else {
    json[GetParam().key] = GetParam().value;
  }
  const auto config = Parse(json);
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().code(), GetParam().code) << config.error().ToString();
  EXPECT_THAT(config.error().message(), AllOf(HasSubstr("config.json"), HasSubstr(GetParam().key)));
}

INSTANTIATE_TEST_SUITE_P(
    Keys, ModelConfigRefusalTest,
    testing::Values(
        Refusal{"hidden_size", "absent", StatusCode::kMalformed},
        Refusal{"head_dim", "absent", StatusCode::kMalformed},
        Refusal{"hidden_size", -1, StatusCode::kMalformed},
        Refusal{"hidden_size", 18446744073709551615u, StatusCode::kMalformed},
        Refusal{"num_hidden_layers", 0, StatusCode::kMalformed},
        Refusal{"num_hidden_layers", 2.5, StatusCode::kMalformed},
        Refusal{"vocab_size", "many", StatusCode::kMalformed},
        Refusal{"num_key_value_heads", 3, StatusCode::kMalformed},
        Refusal{"head_dim", 63, StatusCode::kMalformed},
        Refusal{"rms_norm_eps", 0, StatusCode::kMalformed},
        Refusal{"rms_norm_eps", "small", StatusCode::kMalformed},
        Refusal{"rms_norm_eps", 1e-60, StatusCode::kMalformed},
        Refusal{"rope_theta", -1.0, StatusCode::kMalformed},
        Refusal{"eos_token_id", 151936, StatusCode::kMalformed},
        Refusal{"eos_token_id", Json::array({1, "two"}), StatusCode::kMalformed},
        Refusal{"tie_word_embeddings", 1, StatusCode::kMalformed},
        Refusal{"model_type", "llama", StatusCode::kInvalidArgument},
        Refusal{"hidden_act", "gelu", StatusCode::kInvalidArgument},
        Refusal{"attention_bias", true, StatusCode::kInvalidArgument},
        Refusal{"use_sliding_window", true, StatusCode::kInvalidArgument},
        Refusal{"num_experts", 128, StatusCode::kInvalidArgument},
        Refusal{"quantization_config", Json::object({{"bits", 4}}), StatusCode::kInvalidArgument},
        Refusal{"layer_types", Json::array({"full_attention", "sliding_attention"}),
                StatusCode::kInvalidArgument},
        Refusal{"rope_scaling", Json::object({{"rope_type", "yarn"}, {"factor", 4.0}}),
                StatusCode::kInvalidArgument},
        Refusal{"rope_scaling", Json::object({{"factor", 4.0}}), StatusCode::kInvalidArgument}));

TEST(ModelConfigTest, TextThatIsNotJsonIsRefused) {
  const auto config = ParseModelConfig("{\"hidden_size\": ", "config.json");
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().code(), StatusCode::kMalformed);
}

TEST(ModelConfigTest, MissingFileIsNotFound) {
  const test::ScratchDir scratch;
  EXPECT_EQ(ReadModelConfig(scratch.path()).error().code(), StatusCode::kNotFound);
}

TEST(ModelConfigTest, EngramPartIsRead) {
  const test::ScratchDir scratch;
  const auto model = test::TinyModel::Write({}, scratch.path());
  const auto config = ReadModelConfig(model.dir());
  ASSERT_TRUE(config.has_value()) << config.error().ToString();
  ASSERT_TRUE(config->engram.has_value());
  EXPECT_THAT(config->engram->layer_ids, ElementsAre(1, 3));
  EXPECT_EQ(config->engram_columns(), 4);
  EXPECT_EQ(config->engram_values(), 128);
}

TEST(ModelConfigTest, EngramLayerPastTheLastDecoderLayerIsRefused) {
  const test::ScratchDir scratch;
  const auto model = test::TinyModel::Write({}, scratch.path());
  Json json = Json::parse(test::ReadFile(scratch.path() / "config.json"));
  json["num_hidden_layers"] = 3;
  std::ofstream(scratch.path() / "config.json") << json.dump();
  const auto config = ReadModelConfig(scratch.path());
  ASSERT_FALSE(config.has_value());
  EXPECT_EQ(config.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(config.error().message(), HasSubstr("Engram layer id 3"));
}

}  // namespace
}  // namespace engram
