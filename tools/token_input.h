// Token ids from a text file or from a JSON list, as hash and lookup take them.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"
#include "tools/command.h"

namespace engram {

// Exactly one of the two is set.
struct TokenInput {
  std::filesystem::path
      text_file;  // UTF-8, encoded with the model's tokenizer.json; no BOS is added
  std::filesystem::path ids_file;  // one JSON list of token ids
};

// --text-file and --ids-file, one of which is required.
void AddTokenInputOptions(CLI::App& command, TokenInput& input);

// ERRORS: kNotFound, kIo, kMalformed naming file, expected and found.
[[nodiscard]] Result<std::vector<TokenId>> ReadTokens(const TokenInput& input,
                                                      const std::filesystem::path& model_dir);

}  // namespace engram
