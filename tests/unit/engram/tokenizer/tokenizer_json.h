// tokenizer.json files for tests.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engram/tokenizer/tokenizer.h"

namespace engram {

// A byte-level BPE tokenizer: tokens 0 to 255 are the bytes in order, then "th", "the", "Ġthe".
[[nodiscard]] nlohmann::json SmallTokenizerJson();
// Adds an added token with the next id.
void AddToken(nlohmann::json& tokenizer, const std::string& content, nlohmann::json flags = {});

// A tokenizer that must parse.
[[nodiscard]] Tokenizer MakeTokenizer(const nlohmann::json& json);

// Where the DeepSeek-V3 tokenizer.json is, if it is there: $ENGRAM_TOKENIZER_JSON, else
// build/data/tokenizer.json in the source folder.
[[nodiscard]] std::optional<std::string> DeepSeekTokenizerPath();
inline constexpr const char* kNoDeepSeekTokenizer =
    "the DeepSeek-V3 tokenizer.json is neither at $ENGRAM_TOKENIZER_JSON nor at build/data";

}  // namespace engram
