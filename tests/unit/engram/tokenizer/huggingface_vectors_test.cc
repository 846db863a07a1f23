// Encode and Decode against what Hugging Face's tokenizers give (tests/data, with its origin).
#include <fstream>

#include <gtest/gtest.h>

#include "tests/unit/engram/tokenizer/tokenizer_json.h"

namespace engram {
namespace {

using nlohmann::json;

json ReadVectors(const std::string& name) {
  std::ifstream file(ENGRAM_TEST_DATA "/" + name);
  EXPECT_TRUE(file.good()) << name;
  return json::parse(file);
}

void ExpectCases(const Tokenizer& tokenizer, const json& cases) {
  ASSERT_GT(cases.size(), 30u);
  for (const json& test : cases) {
    const std::string text = test.at("text");
    const auto ids = test.at("ids").get<std::vector<TokenId>>();
    EXPECT_EQ(tokenizer.Encode(text), ids) << text;
    EXPECT_EQ(tokenizer.Decode(ids), test.value("decoded", text));
  }
}

TEST(HuggingFaceVectorsTest, DeepSeekV3TokenizerAgreesOnEveryText) {
  const auto path = DeepSeekTokenizerPath();
  if (!path.has_value()) GTEST_SKIP() << kNoDeepSeekTokenizer;
  const auto tokenizer = Tokenizer::Load(*path);
  ASSERT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
  ExpectCases(*tokenizer, ReadVectors("tokenizer_deepseek_v3_vectors.json").at("cases"));
}

class VariantVectorsTest : public testing::TestWithParam<std::string> {};

TEST_P(VariantVectorsTest, AgreesOnEveryText) {
  const json vectors = ReadVectors("tokenizer_variant_vectors.json");
  const json* variant = nullptr;
  for (const json& candidate : vectors.at("variants")) {
    if (candidate.at("name") == GetParam()) variant = &candidate;
  }
  ASSERT_NE(variant, nullptr);
  json definition = vectors.at("base");
  const json& change = variant->at("change");
  for (const char* key : {"normalizer", "pre_tokenizer", "added_tokens", "decoder"}) {
    if (change.contains(key)) definition[key] = change[key];
  }
  definition["model"]["ignore_merges"] = change.value("ignore_merges", false);
  if (change.value("merges_as_pairs", false)) {
    for (json& merge : definition["model"]["merges"]) {
      const std::string text = merge;
      const size_t space = text.find(' ');
      merge = json::array({text.substr(0, space), text.substr(space + 1)});
    }
  }
  ExpectCases(MakeTokenizer(definition), variant->at("cases"));
}

INSTANTIATE_TEST_SUITE_P(AllVariants, VariantVectorsTest,
                         testing::Values("deepseek_shape", "qwen_shape", "byte_level_alone",
                                         "digits_one_by_one", "digits_in_runs", "matches_kept",
                                         "added_tokens"),
                         [](const auto& test) { return test.param; });

}  // namespace
}  // namespace engram
