#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "engram/checkpoint/model_files.h"

namespace engram {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;

json Released() {
  return {{"engram_layer_ids", {1, 14}}, {"engram_num_embeddings", {384006168, 384016682}},
          {"engram_max_ngram_size", 4},  {"engram_vocab_size", 16000000},
          {"engram_n_heads", 8},         {"engram_head_dim", 256},
          {"engram_pad_token_id", 2},    {"engram_compressed_vocab_size", 99092},
          {"hidden_size", 5120}};
}

json Demo() {
  return {{"engram_config",
           {{"tokenizer_name_or_path", "x"},
            {"engram_vocab_size", {646400, 646401}},
            {"max_ngram_size", 3},
            {"n_embed_per_ngram", 512},
            {"n_head_per_ngram", 8},
            {"layer_ids", {1, 15}},
            {"pad_id", 2},
            {"seed", 7},
            {"kernel_size", 4}}}};
}

std::string Fault(const json& config) {
  const auto parsed = ParseEngramConfig(config.dump(), "config.json");
  if (parsed.has_value()) return "accepted";
  EXPECT_EQ(parsed.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(parsed.error().message(), HasSubstr("config.json"));
  return parsed.error().message();
}

TEST(EngramConfigTest, ReleasedKeysAtTopLevelOrInTextConfig) {
  for (const json& config : {Released(), json{{"text_config", Released()}}}) {
    const auto parsed = ParseEngramConfig(config.dump(), "config.json");
    ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
    EXPECT_EQ(parsed->variant, Variant::kV41);
    EXPECT_EQ(parsed->layer_ids, (std::vector<int32_t>{1, 14}));
    EXPECT_EQ(parsed->row_counts, (std::vector<int64_t>{384006168, 384016682}));
    EXPECT_EQ(parsed->max_ngram_size, 4);
    EXPECT_EQ(parsed->base_sizes, (std::vector<int64_t>(3, 16000000)));
    EXPECT_EQ(parsed->head_count, 8);
    EXPECT_EQ(parsed->row_values, 256u);
    EXPECT_EQ(parsed->pad_token_id, 2);
    EXPECT_EQ(parsed->compressed_vocab_size, 99092);
    EXPECT_EQ(parsed->seed, 0u);
  }
}

TEST(EngramConfigTest, DemoFieldNames) {
  const auto parsed = ParseEngramConfig(Demo().dump(), "config.json");
  ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
  EXPECT_EQ(parsed->variant, Variant::kDemo);
  EXPECT_EQ(parsed->base_sizes, (std::vector<int64_t>{646400, 646401}));
  EXPECT_EQ(parsed->row_values, 64u);
  EXPECT_EQ(parsed->seed, 7u);
  EXPECT_EQ(parsed->demo_kernel_size, 4);
  EXPECT_EQ(parsed->layer_ids, (std::vector<int32_t>{1, 15}));
  EXPECT_FALSE(parsed->compressed_vocab_size.has_value());
  EXPECT_TRUE(parsed->row_counts.empty());
  json with_v = Demo();
  with_v["engram_config"]["compressed_vocab_size"] = 98627;
  EXPECT_EQ(ParseEngramConfig(with_v.dump(), "c")->compressed_vocab_size, 98627);
}

TEST(EngramConfigTest, PlainModelHasNoEngramKeys) {
  for (const char* text : {R"({"hidden_size":8})", R"({"engram_layer_ids":null})"}) {
    const auto parsed = ParseEngramConfig(text, "config.json");
    ASSERT_FALSE(parsed.has_value());
    EXPECT_EQ(parsed.error().code(), StatusCode::kNotFound);
    EXPECT_THAT(parsed.error().message(), HasSubstr("has no Engram keys"));
  }
}

TEST(EngramConfigTest, MissingKeysAreNamed) {
  const json released = Released();
  for (const auto& [key, value] : released.items()) {
    if (key == "hidden_size" || key == "engram_num_embeddings" || key == "engram_layer_ids")
      continue;
    json config = {{"text_config", Released()}};
    config["text_config"].erase(key);
    EXPECT_THAT(Fault(config), HasSubstr("key text_config." + key + " is missing"));
  }
  for (const char* key : {"engram_vocab_size", "max_ngram_size", "n_embed_per_ngram",
                          "n_head_per_ngram", "layer_ids"}) {
    json config = Demo();
    config["engram_config"].erase(key);
    EXPECT_THAT(Fault(config), HasSubstr(std::string("key engram_config.") + key + " is missing"));
  }
}

TEST(EngramConfigTest, WrongTypesAndRangesAreNamedWithWhatWasFound) {
  const auto with = [](const char* key, const json& value) {
    json config = Released();
    config[key] = value;
    return config;
  };
  EXPECT_THAT(
      Fault(with("engram_n_heads", "eight")),
      AllOf(HasSubstr("engram_n_heads"), HasSubstr("the text \"eight\""), HasSubstr("1..64")));
  EXPECT_THAT(Fault(with("engram_n_heads", 0)),
              HasSubstr("holds 0, expected a whole number 1..64"));
  EXPECT_THAT(Fault(with("engram_n_heads", 8.5)), HasSubstr("8.5"));
  EXPECT_THAT(Fault(with("engram_max_ngram_size", 9)), HasSubstr("2..8"));
  EXPECT_THAT(Fault(with("engram_vocab_size", 18446744073709551615ull)),
              HasSubstr("engram_vocab_size"));
  EXPECT_THAT(Fault(with("engram_head_dim", 5000)), HasSubstr("1..4096"));
  EXPECT_THAT(Fault(with("engram_layer_ids", 1)), HasSubstr("expected a list"));
  EXPECT_THAT(Fault(with("engram_layer_ids", json::array())), HasSubstr("expected a list"));
  EXPECT_THAT(Fault(with("engram_layer_ids", {1, -3})), HasSubstr("-3"));
  EXPECT_THAT(Fault(with("engram_num_embeddings", {5})), HasSubstr("expected one per layer"));
}

TEST(EngramConfigTest, DemoListsMustAgreeWithEachOther) {
  json config = Demo();
  config["engram_config"]["engram_vocab_size"] = {646400};
  EXPECT_THAT(Fault(config), HasSubstr("max_ngram_size - 1 = 2"));
  config = Demo();
  config["engram_config"]["n_embed_per_ngram"] = 513;
  EXPECT_THAT(Fault(config), HasSubstr("a multiple of n_head_per_ngram = 8"));
  config = Demo();
  config["engram_config"] = 7;
  EXPECT_THAT(Fault(config), HasSubstr("engram_config is not an object"));
}

TEST(EngramConfigTest, TwoSetsOfKeysAreRefused) {
  json config = Released();
  config["text_config"] = Released();
  EXPECT_THAT(Fault(config), HasSubstr("both engram_layer_ids and text_config.engram_layer_ids"));
  config = Released();
  config.update(Demo());
  EXPECT_THAT(Fault(config), HasSubstr("both engram_config and engram_layer_ids"));
}

TEST(EngramConfigTest, KeyTwiceAndDeepNestingAreRefused) {
  const auto twice = ParseEngramConfig(R"({"engram_n_heads":8,"engram_n_heads":4})", "config.json");
  ASSERT_FALSE(twice.has_value());
  EXPECT_THAT(twice.error().message(), HasSubstr("the key \"engram_n_heads\" stands twice"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100000; ++i) deep += "[";
  EXPECT_FALSE(ParseEngramConfig(deep, "config.json").has_value());
  std::string closed = "{\"a\":" + std::string(1000, '[') + std::string(1000, ']') + "}";
  const auto nested = ParseEngramConfig(closed, "config.json");
  ASSERT_FALSE(nested.has_value());
  EXPECT_THAT(nested.error().message(), HasSubstr("nested deeper than 64"));
}

}  // namespace
}  // namespace engram
