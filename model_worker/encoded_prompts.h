// A prompts file as token ids.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/tokenizer/tokenizer.h"
#include "model_worker/prompts.h"

namespace engram {

struct EncodedPrompts {
  std::vector<std::string> texts;
  std::vector<std::vector<TokenId>> ids;  // [prompts]
};

// ERRORS: those of ReadPrompts.
[[nodiscard]] inline Result<EncodedPrompts> EncodePrompts(const std::filesystem::path& file,
                                                          const Tokenizer& tokenizer) {
  EncodedPrompts prompts;
  ENGRAM_ASSIGN_OR_RETURN(prompts.texts, ReadPrompts(file));
  for (const std::string& text : prompts.texts) prompts.ids.push_back(tokenizer.Encode(text));
  return prompts;
}

}  // namespace engram
