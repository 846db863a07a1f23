// What Tokenizer::Parse refuses, and what it says then.
#include <functional>

#include <gmock/gmock.h>

#include "tests/unit/engram/tokenizer/tokenizer_json.h"

namespace engram {
namespace {

using nlohmann::json;
using testing::HasSubstr;

void ExpectRefused(StatusCode code, const std::string& named,
                   const std::function<void(json&)>& change) {
  json definition = SmallTokenizerJson();
  change(definition);
  const auto tokenizer = Tokenizer::Parse(definition.dump(), "dir/tokenizer.json");
  ASSERT_FALSE(tokenizer.has_value()) << named;
  EXPECT_EQ(tokenizer.error().code(), code) << tokenizer.error().ToString();
  EXPECT_THAT(tokenizer.error().message(), HasSubstr(named));
  EXPECT_THAT(tokenizer.error().message(), HasSubstr("dir/tokenizer.json"));
}

void ExpectUnsupported(const std::string& named, const std::function<void(json&)>& change) {
  ExpectRefused(StatusCode::kInvalidArgument, named, change);
}

void ExpectMalformed(const std::string& named, const std::function<void(json&)>& change) {
  ExpectRefused(StatusCode::kMalformed, named, change);
}

json Sequence(const char* key, json parts) { return {{"type", "Sequence"}, {key, parts}}; }

TEST(TokenizerRefusalTest, OtherKindsOfTokenizerAreNamed) {
  ExpectUnsupported("decoder type \"Metaspace\" is not supported: only ByteLevel BPE", [](json& j) {
    j["decoder"] = {{"type", "Metaspace"}};
  });
  ExpectUnsupported("decoder type \"WordPiece\"", [](json& j) {
    j["decoder"] = Sequence("decoders", {{{"type", "ByteLevel"}}, {{"type", "WordPiece"}}});
  });
  ExpectUnsupported("decoder type (none)", [](json& j) { j["decoder"] = nullptr; });
  ExpectUnsupported("model type \"Unigram\" is not supported: only BPE",
                    [](json& j) { j["model"]["type"] = "Unigram"; });
  ExpectUnsupported("normalizer type \"Precompiled\"", [](json& j) {
    j["normalizer"] = {{"type", "Precompiled"}};
  });
  ExpectUnsupported("pre-tokenizer type \"Metaspace\"", [](json& j) {
    j["pre_tokenizer"] = {{"type", "Metaspace"}};
  });
  ExpectUnsupported("a pre_tokenizer ending in (none)",
                    [](json& j) { j["pre_tokenizer"] = nullptr; });
  ExpectUnsupported("a pre_tokenizer ending in \"Digits\"", [](json& j) {
    j["pre_tokenizer"] = {{"type", "Digits"}};
  });
  ExpectUnsupported("pre-tokenizer Split behavior \"MergedWithNext\"", [](json& j) {
    j["pre_tokenizer"] = Sequence(
        "pretokenizers",
        {{{"type", "Split"}, {"pattern", {{"Regex", "a"}}}, {"behavior", "MergedWithNext"}},
         {{"type", "ByteLevel"}}});
  });
  ExpectUnsupported("model dropout 0.1", [](json& j) { j["model"]["dropout"] = 0.1; });
  ExpectUnsupported("model continuing_subword_prefix \"##\"",
                    [](json& j) { j["model"]["continuing_subword_prefix"] = "##"; });
  ExpectUnsupported("model end_of_word_suffix \"</w>\"",
                    [](json& j) { j["model"]["end_of_word_suffix"] = "</w>"; });
}

TEST(TokenizerRefusalTest, VocabularyWithoutAByteIsNamed) {
  ExpectUnsupported("for the byte 32", [](json& j) { j["model"]["vocab"].erase("\u0120"); });
}

TEST(TokenizerRefusalTest, PatternThatIsNoRegularExpressionIsNamed) {
  ExpectUnsupported("(U_REGEX_MISMATCHED_PAREN", [](json& j) {
    j["pre_tokenizer"] =
        Sequence("pretokenizers",
                 {{{"type", "Split"}, {"pattern", {{"Regex", "(a"}}}, {"behavior", "Isolated"}},
                  {{"type", "ByteLevel"}}});
  });
  ExpectMalformed("has the pattern {\"Regex\":7}", [](json& j) {
    j["pre_tokenizer"] =
        Sequence("pretokenizers",
                 {{{"type", "Split"}, {"pattern", {{"Regex", 7}}}, {"behavior", "Isolated"}},
                  {{"type", "ByteLevel"}}});
  });
}

TEST(TokenizerRefusalTest, BrokenFilesAreNamed) {
  ExpectMalformed("has no object \"model\"", [](json& j) { j.erase("model"); });
  ExpectMalformed("is not a JSON object", [](json& j) { j = json::array(); });
  ExpectMalformed("model.vocab must be", [](json& j) { j["model"]["vocab"] = 1; });
  ExpectMalformed("model.merges must be", [](json& j) { j["model"].erase("merges"); });
  ExpectMalformed("merge 3 needs the token \"he\"",
                  [](json& j) { j["model"]["merges"].push_back("h e"); });
  ExpectMalformed("merge 3 is \"the\"", [](json& j) { j["model"]["merges"].push_back("the"); });
  ExpectMalformed("merge 3 is \"t h e\"", [](json& j) { j["model"]["merges"].push_back("t h e"); });
  ExpectMalformed("merge 3 is [\"t\"]",
                  [](json& j) { j["model"]["merges"].push_back(json::array({"t"})); });
  ExpectMalformed("the token \"the\" in model.vocab has the id -1",
                  [](json& j) { j["model"]["vocab"]["the"] = -1; });
  ExpectMalformed("has the id 4194304", [](json& j) { j["model"]["vocab"]["the"] = 4194304; });
  ExpectMalformed("have the same id 256", [](json& j) { j["model"]["vocab"]["the"] = 256; });
  ExpectMalformed("added_tokens must be an array", [](json& j) { j["added_tokens"] = 5; });
  ExpectMalformed("added_tokens[0] is {}", [](json& j) { j["added_tokens"] = {json::object()}; });
  ExpectMalformed("added token \"the\" has the id 259, but 257",
                  [](json& j) { AddToken(j, "the"); });
  ExpectMalformed("added_tokens[0].lstrip is \"yes\"", [](json& j) {
    AddToken(j, "<x>", {{"lstrip", "yes"}});
  });
  ExpectMalformed("more than 1024 bytes", [](json& j) { AddToken(j, std::string(1025, 'x')); });
}

TEST(TokenizerRefusalTest, NestingIsBounded) {
  ExpectMalformed("nested too deep", [](json& j) {
    json part = {{"type", "ByteLevel"}};
    for (int i = 0; i < 10; ++i) part = Sequence("decoders", json::array({part}));
    j["decoder"] = part;
  });
  const std::string deep(300000, '[');
  const auto tokenizer = Tokenizer::Parse(deep, "deep.json");
  ASSERT_FALSE(tokenizer.has_value());
  EXPECT_EQ(tokenizer.error().code(), StatusCode::kMalformed);
}

TEST(TokenizerRefusalTest, TextThatIsNoJsonIsNamedWithItsPlace) {
  const auto tokenizer = Tokenizer::Parse("{\"model\": nope}", "x.json");
  ASSERT_FALSE(tokenizer.has_value());
  EXPECT_EQ(tokenizer.error().code(), StatusCode::kMalformed);
  EXPECT_THAT(tokenizer.error().message(), HasSubstr("x.json: not JSON: byte 1"));
}

}  // namespace
}  // namespace engram
