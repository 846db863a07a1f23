// Finds added tokens ("<|user|>" and the like) in text.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engram/tokenizer/tokenizer_definition.h"

namespace engram {

// A stretch of text that is one added token (with the white space it strips), or none (id < 0).
struct TextStretch {
  std::string_view text;
  TokenId id = -1;
};

// Immutable after the Add calls; thread-safe then.
class AddedTokenFinder {
 public:
  // Looks for `content` (not empty), as `token` says.
  void Add(std::string_view content, const AddedToken& token);

  // Cuts `text` (well-formed UTF-8) at the tokens: leftmost first, of several the longest. No
  // stretch without a token is empty.
  void Cut(std::string_view text, std::vector<TextStretch>& stretches) const;

 private:
  struct Entry {
    TokenId id;
    bool single_word;
    bool lstrip;
    bool rstrip;
  };
  struct Found {
    size_t size;  // 0: nothing begins here
    const Entry* entry;
  };
  [[nodiscard]] Found LongestAt(std::string_view text) const;

  // A trie over bytes: (node << 8 | byte) -> node; node 0 is the root.
  std::unordered_map<uint64_t, uint32_t> edges_;
  std::vector<int32_t> entry_of_node_ = {-1};
  std::vector<Entry> entries_;
  std::array<bool, 256> begins_{};
};

}  // namespace engram
