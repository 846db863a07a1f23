#include "model_worker/completion_messages.h"

#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model_worker/stop_text.h"

namespace engram {
namespace {

using Json = nlohmann::json;

TEST(CompletionMessagesTest, EveryFieldIsRead) {
  const auto request = ParseCompletionRequest(
      R"({"model":"m","prompt":"hi","max_tokens":7,"temperature":0.5,"top_p":0.25,"top_k":3,
          "seed":-1,"stop":["a","bc"],"stream":true,"stream_options":{"include_usage":true},
          "n":1,"echo":false,"logprobs":null,"presence_penalty":0.0,"user":"u"})");
  ASSERT_TRUE(request.has_value()) << request.error().ToString();
  EXPECT_EQ(request->model, "m");
  EXPECT_EQ(std::get<std::string>(request->prompt), "hi");
  EXPECT_EQ(request->max_tokens, 7u);
  EXPECT_EQ(request->sampling.temperature, 0.5f);
  EXPECT_EQ(request->sampling.top_p, 0.25f);
  EXPECT_EQ(request->sampling.top_k, 3u);
  EXPECT_EQ(request->sampling.seed, ~uint64_t{0});
  EXPECT_TRUE(request->seed_given);
  EXPECT_EQ(request->stop, (std::vector<std::string>{"a", "bc"}));
  EXPECT_TRUE(request->stream);
  EXPECT_TRUE(request->stream_usage);
}

TEST(CompletionMessagesTest, DefaultsAreTheApis) {
  const auto request = ParseCompletionRequest(R"({"prompt":[3,1,2]})");
  ASSERT_TRUE(request.has_value());
  EXPECT_EQ(std::get<std::vector<TokenId>>(request->prompt), (std::vector<TokenId>{3, 1, 2}));
  EXPECT_EQ(request->max_tokens, 16u);
  EXPECT_EQ(request->sampling.temperature, 1.0f);
  EXPECT_FALSE(request->stream);
  EXPECT_FALSE(request->seed_given);
}

TEST(CompletionMessagesTest, FaultsAreRefusedByFieldName) {
  const std::pair<const char*, const char*> cases[] = {
      {"{", "JSON"},
      {"[]", "object"},
      {"{}", "prompt"},
      {R"({"prompt":""})", "prompt"},
      {R"({"prompt":[]})", "prompt"},
      {R"({"prompt":null})", "prompt"},
      {R"({"prompt":["a","b"]})", "prompt"},
      {R"({"prompt":[1,-2]})", "prompt"},
      {R"({"prompt":[1,99999999999]})", "prompt"},
      {R"({"prompt":[1.5]})", "prompt"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":"7"})", "max_tokens"},
      {R"({"prompt":"a","max_tokens":1e99})", "max_tokens"},
      {R"({"prompt":"a","temperature":-1})", "temperature"},
      {R"({"prompt":"a","temperature":"hot"})", "temperature"},
      {R"({"prompt":"a","top_p":0})", "top_p"},
      {R"({"prompt":"a","top_k":-4})", "top_k"},
      {R"({"prompt":"a","seed":1.5})", "seed"},
      {R"({"prompt":"a","stop":[""]})", "stop"},
      {R"({"prompt":"a","stop":{"x":1}})", "stop"},
      {R"({"prompt":"a","stream":1})", "stream"},
      {R"({"prompt":"a","stream_options":{"x":1}})", "stream_options.x"},
      {R"({"prompt":"a","n":2})", "n is not supported"},
      {R"({"prompt":"a","logprobs":0})", "logprobs"},
      {R"({"prompt":"a","max_token":5})", "max_token is not known"},
  };
  for (const auto& [body, named] : cases) {
    const auto request = ParseCompletionRequest(body);
    ASSERT_FALSE(request.has_value()) << body;
    EXPECT_EQ(request.error().code(), StatusCode::kInvalidArgument) << body;
    EXPECT_NE(request.error().message().find(named), std::string::npos)
        << body << ": " << request.error().message();
  }
}

TEST(CompletionMessagesTest, ADeepBodyIsRefusedWithoutDeepRecursion) {
  const std::string deep(1 << 20, '[');
  for (const std::string& body :
       {R"({"prompt":)" + deep, R"({"prompt":)" + deep + std::string(deep.size(), ']') + "}"}) {
    const auto request = ParseCompletionRequest(body);
    ASSERT_FALSE(request.has_value());
    EXPECT_NE(request.error().message().find("nests deeper"), std::string::npos);
  }
}

TEST(CompletionMessagesTest, AnswersHaveTheApisShape) {
  const CompletionHead head{"cmpl-1", "m", 1234};
  const Json whole = Json::parse(CompletionJson(head, "text", "length", {3, 4}));
  EXPECT_EQ(whole["object"], "text_completion");
  EXPECT_EQ(whole["created"], 1234);
  EXPECT_EQ(whole["choices"][0]["text"], "text");
  EXPECT_EQ(whole["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(whole["usage"]["total_tokens"], 7);
  const Json chunk = Json::parse(CompletionChunkJson(head, "te", ""));
  EXPECT_TRUE(chunk["choices"][0]["finish_reason"].is_null());
  EXPECT_FALSE(chunk.contains("usage"));
  const Json error = Json::parse(ErrorJson({StatusCode::kResourceExhausted, "full"}));
  EXPECT_EQ(error["error"]["code"], "RESOURCE_EXHAUSTED");
  EXPECT_EQ(error["error"]["type"], "rate_limit_error");
  EXPECT_EQ(ServerSentEvent("x"), "data: x\n\n");
}

TEST(StopTextTest, TextIsCutAtTheFirstStop) {
  StopText stop({"END", "##"});
  EXPECT_EQ(stop.Next("one E"), "one ");
  EXPECT_EQ(stop.Next("N"), "");
  EXPECT_EQ(stop.Next("x t"), "ENx t");
  EXPECT_EQ(stop.Next("wo#"), "wo");
  EXPECT_EQ(stop.Next("# END"), "");
  EXPECT_TRUE(stop.stopped());
  EXPECT_EQ(stop.Next("more"), "");
  EXPECT_EQ(stop.Finish(), "");
}

TEST(StopTextTest, WhatWasHeldBackComesAtTheEnd) {
  StopText stop({"abc"});
  EXPECT_EQ(stop.Next("xxab"), "xx");
  EXPECT_EQ(stop.Finish(), "ab");
  StopText none({});
  EXPECT_EQ(none.Next("abc"), "abc");
}

// Against the slow model: the whole text, cut where the first stop string ends earliest.
TEST(StopTextTest, AnySplitIntoPiecesGivesTheSameText) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (int i = 0; i < 20; ++i) text += static_cast<char>('a' + random() % 2);
    std::vector<std::string> stops;
    for (uint32_t s = 0; s < 1 + random() % 2; ++s) {
      std::string word;
      for (uint32_t i = 0; i < 3 + random() % 3; ++i) word += static_cast<char>('a' + random() % 2);
      stops.push_back(word);
    }
    // One character at a time: the first position at which some stop string is complete.
    std::string expected = text;
    for (size_t end = 1; end <= text.size() && expected.size() == text.size(); ++end) {
      for (const auto& word : stops) {
        const std::string head = text.substr(0, end);
        if (head.ends_with(word) && head.size() - word.size() < expected.size()) {
          expected = head.substr(0, head.size() - word.size());
        }
      }
    }
    StopText stop(stops);
    std::string shown;
    for (const char c : text) shown += stop.Next(std::string_view(&c, 1));
    shown += stop.Finish();
    ASSERT_EQ(shown, expected) << text;
  }
}

}  // namespace
}  // namespace engram
