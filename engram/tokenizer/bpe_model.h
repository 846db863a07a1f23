// Byte-pair merging of one piece of text.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engram/hash/ngram_hasher.h"
#include "engram/tokenizer/tokenizer_definition.h"

namespace engram {

// Reused between pieces so that encoding does not allocate for each. Thread-compatible.
struct BpeScratch {
  struct Symbol {
    TokenId id;
    int32_t previous;  // -1: none
    int32_t next;      // -1: none
    bool merged_away;
  };
  struct Candidate {
    uint64_t order;  // rank, then position: the smaller goes first
    TokenId merged;
  };
  std::vector<Symbol> symbols;
  std::vector<Candidate> heap;
};

// Immutable; thread-safe.
class BpeModel {
 public:
  // `token_bytes` [vocabulary] the bytes of each token.
  BpeModel(const TokenizerDefinition& definition, const std::vector<std::string>& token_bytes);

  // Appends the ids of `piece` to `ids`: the pair of lowest rank is merged first, of several the
  // leftmost, until none is left. O(n log n).
  void Encode(std::string_view piece, BpeScratch& scratch, std::vector<TokenId>& ids) const;

 private:
  struct Merge {
    uint64_t pair;  // left << 32 | right; kNoPair: empty
    uint32_t rank;
    TokenId merged;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};

  [[nodiscard]] const Merge* Find(TokenId left, TokenId right) const;
  void Insert(const Merge& merge);
  void Offer(BpeScratch& scratch, int32_t position) const;

  std::array<TokenId, 256> byte_ids_;
  std::vector<Merge> merges_;  // open addressing, linear probing; size is a power of two
  std::unordered_map<std::string, TokenId> whole_pieces_;  // empty unless ignore_merges
};

}  // namespace engram
