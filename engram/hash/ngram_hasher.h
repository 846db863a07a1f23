// Token ids -> buckets of every column of every Engram layer, bit-exact (docs/formats/row_ids.md).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/hash_spec.h"

namespace engram {

using TokenId = int32_t;

// A run of consecutive tokens of one sequence, with what stood before it. Nothing is owned.
struct TokenRun {
  // The up to max_ngram_size - 1 token ids right before `tokens`, oldest first; fewer means that
  // the sequence starts there; more are allowed, the last ones are used.
  std::span<const TokenId> history{};
  std::span<const TokenId> tokens{};
  // v41 only: 1 = dead (an image position). Empty = none dead; else the same length as its ids.
  std::span<const uint8_t> history_dead{};
  std::span<const uint8_t> tokens_dead{};
};

// Immutable after Create; every method is thread-safe.
class NgramHasher {
 public:
  // `compression` [vocabulary] maps token id -> compressed id; copied.
  // ERRORS: kInvalidArgument (a bad spec, a compressed id outside [0, V)).
  [[nodiscard]] static Result<NgramHasher> Create(const HashSpec& spec,
                                                  std::span<const int32_t> compression);
  NgramHasher(NgramHasher&&) noexcept;
  NgramHasher& operator=(NgramHasher&&) noexcept;
  ~NgramHasher();

  [[nodiscard]] const HashSpec& spec() const;
  // [layers][columns] prime sizes.
  [[nodiscard]] const std::vector<std::vector<uint32_t>>& column_sizes() const;

  // ERRORS: kInvalidArgument naming the first token id outside the vocabulary (a negative id passes
  // through in the demo variant), or a dead mask of the wrong length or in the demo variant.
  [[nodiscard]] Status Validate(const TokenRun& run) const;

  // Buckets (hash mod prime) of one layer.
  //   layer_index  place in spec().layer_ids
  //   buckets      written: [columns][column_stride]; token t of the run at [column][t];
  //                column_stride >= run.tokens.size(). A dead token gets buckets like any other.
  // Does not allocate. Precondition: Validate(run).ok().
  void Hash(int32_t layer_index, const TokenRun& run, uint32_t* buckets,
            size_t column_stride) const;

  // Hash in two steps, for callers that look at n-grams in between. Tokens with the same mix of an
  // order have the same bucket in every column of that order, whatever the primes are.
  //   mixes  written: [orders][order_stride], order n of token t of the run at [n - 2][t];
  //          order_stride >= run.tokens.size(). A dead token gets mixes like any other.
  // Does not allocate. Precondition: Validate(run).ok().
  void Mix(int32_t layer_index, const TokenRun& run, uint64_t* mixes, size_t order_stride) const;
  // buckets[i] = the bucket that a token with mixes[i] of the column's order has: [mixes.size()].
  void Reduce(int32_t layer_index, int32_t column, std::span<const uint64_t> mixes,
              uint32_t* buckets) const;

 private:
  struct Impl;
  explicit NgramHasher(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// The last max_ngram_size - 1 tokens of a growing sequence: what the next run's hash needs, and all
// that must travel with a KV-cache hand-over. Thread-compatible.
class LookBack {
 public:
  explicit LookBack(int32_t max_ngram_size) : keep_(max_ngram_size - 1) {}
  // `dead` is empty (none) or as long as `tokens`.
  void Append(std::span<const TokenId> tokens, std::span<const uint8_t> dead = {});
  [[nodiscard]] std::span<const TokenId> tokens() const { return tokens_; }
  // As long as tokens(), or empty where none of them is dead (always so in the demo variant).
  [[nodiscard]] std::span<const uint8_t> dead() const;

 private:
  int32_t keep_;
  std::vector<TokenId> tokens_;  // at most keep_
  std::vector<uint8_t> dead_;    // as long as tokens_
};

}  // namespace engram
