// What a tokenizer.json says, checked and without its JSON.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {

inline constexpr size_t kTokenizerFileBytesMax = size_t{64} << 20;
inline constexpr int64_t kTokenIdEnd = int64_t{4} << 20;
inline constexpr size_t kAddedTokenBytesMax = 1024;
inline constexpr size_t kPatternBytesMax = size_t{16} << 10;
inline constexpr size_t kSplitStepsMax = 16;

struct AddedToken {
  TokenId id = 0;
  std::string content{};
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the white space before it too
  bool rstrip = false;       // takes the white space after it too
  bool normalized = false;   // looked for in the normalised text
  bool in_model = false;     // a token of the BPE model too
};

enum class NormalForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// One step of cutting text into the pieces that BPE then works on.
struct SplitStep {
  enum class Kind : uint8_t {
    kIsolate,         // every match is a piece, and so is what lies between
    kRemoveMatches,   // only what lies between
    kKeepMatches,     // only the matches
    kAddPrefixSpace,  // pieces that do not begin with a space get one
  };
  Kind kind = Kind::kIsolate;
  bool literal = false;  // `pattern` is text, not a regular expression
  std::string pattern;
};

struct MergeRule {
  TokenId left = 0;
  TokenId right = 0;
  TokenId merged = 0;
};

struct TokenizerDefinition {
  std::vector<std::string> tokens;      // [highest id + 1] as spelt; empty: no such token
  std::array<TokenId, 256> byte_ids{};  // the token of each single byte
  std::vector<MergeRule> merges;        // index = rank
  bool ignore_merges = false;  // a piece that is a token is that token, whatever the merges
  std::vector<NormalForm> normal_forms;
  std::vector<SplitStep> split_steps;
  std::vector<AddedToken> added_tokens;
};

// `name` stands for the file in messages. Errors as Tokenizer::Parse.
[[nodiscard]] Result<TokenizerDefinition> ParseTokenizerDefinition(std::string_view json,
                                                                   std::string_view name);

}  // namespace engram
