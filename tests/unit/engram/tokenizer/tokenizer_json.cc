#include "tests/unit/engram/tokenizer/tokenizer_json.h"

#include <cstdlib>
#include <filesystem>

#include <gtest/gtest.h>

#include "engram/tokenizer/byte_alphabet.h"

namespace engram {

using nlohmann::json;

json SmallTokenizerJson() {
  json vocab;
  const ByteAlphabet alphabet;
  for (int byte = 0; byte < 256; ++byte)
    vocab[alphabet.Spelling(static_cast<uint8_t>(byte))] = byte;
  vocab["th"] = 256;
  vocab["the"] = 257;
  vocab["\u0120the"] = 258;
  return {
      {"version", "1.0"},
      {"added_tokens", json::array()},
      {"normalizer", nullptr},
      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h", "th e", "\u0120 the"}}}}};
}

void AddToken(json& tokenizer, const std::string& content, json flags) {
  json token = {{"id", tokenizer["model"]["vocab"].size() + tokenizer["added_tokens"].size()},
                {"content", content},
                {"special", true}};
  if (flags.is_object()) token.update(flags);
  tokenizer["added_tokens"].push_back(token);
}

Tokenizer MakeTokenizer(const json& value) {
  auto tokenizer = Tokenizer::Parse(value.dump(), "test.json");
  EXPECT_TRUE(tokenizer.has_value()) << tokenizer.error().ToString();
  return *std::move(tokenizer);
}

std::optional<std::string> DeepSeekTokenizerPath() {
  const char* given = std::getenv("ENGRAM_TOKENIZER_JSON");
  const std::string path =
      given != nullptr ? given : ENGRAM_SOURCE_DIR "/build/data/tokenizer.json";
  if (!std::filesystem::exists(path)) return std::nullopt;
  return path;
}

}  // namespace engram
