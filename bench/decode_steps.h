// The tokens of decode steps: many sequences, each with its next token and what a draft model
// thinks comes after it.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "bench/token_source.h"
#include "engram/hash/ngram_hasher.h"

namespace engram::bench {

// Sequences that start at even distances in a token source. Thread-compatible.
class DecodeSteps {
 public:
  struct Options {
    uint32_t sequences = 1;
    uint32_t drafts = 0;  // speculative tokens of a sequence in each step
    double accepted = 0;  // chance of each that it is right, if those before it are
    uint64_t seed = 1;
  };
  // `tokens` outlives this.
  DecodeSteps(const Options& options, TokenSource* tokens);

  // One run for each sequence, of 1 + drafts tokens; valid until the next call.
  [[nodiscard]] std::span<const TokenRun> Next();
  [[nodiscard]] uint32_t tokens_per_step() const {
    return options_.sequences * (1 + options_.drafts);
  }
  // Of all steps so far. A rejected token's rows were read for nothing.
  [[nodiscard]] uint64_t tokens() const { return tokens_seen_; }
  [[nodiscard]] uint64_t rejected() const { return rejected_; }

 private:
  struct Sequence {
    uint64_t place = 0;  // of its next token in the source
    LookBack before{kLookBack};
    std::vector<TokenId> history;
    std::vector<TokenId> step;
  };
  static constexpr int32_t kLookBack = 16;  // more than any n-gram

  const Options options_;
  TokenSource* const tokens_;
  std::mt19937_64 random_;
  std::vector<Sequence> sequences_;
  std::vector<TokenRun> runs_;
  uint64_t tokens_seen_ = 0;
  uint64_t rejected_ = 0;
};

}  // namespace engram::bench
