// The tokens that a benchmark reads rows for.
#pragma once

#include <cstdint>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"

namespace engram::bench {

// Random tokens, whose rows are uniform and all but distinct, or a stream of a user's own, read
// from its start to its end and over again. Thread-compatible.
class TokenSource {
 public:
  // Of token ids [0, vocabulary).
  [[nodiscard]] static TokenSource Random(int32_t vocabulary, uint64_t seed);
  // `ids_file`: one JSON list of token ids (docs/formats/token_stream.md).
  // ERRORS: kNotFound, kIo, kMalformed; kInvalidArgument for a list shorter than `batch_max`.
  [[nodiscard]] static Result<TokenSource> Open(const std::filesystem::path& ids_file,
                                                uint32_t batch_max);

  // Highest id + 1.
  [[nodiscard]] int32_t vocabulary() const { return vocabulary_; }
  // Tokens of the stream; 0 = random ones, without end.
  [[nodiscard]] uint64_t length() const { return stream_.size(); }

  // The next `count` tokens and what stood before them; valid until the next call. A batch that
  // does not fit before the end of the stream starts at its beginning.
  // Precondition: 1 <= count, and at most the stream's length.
  [[nodiscard]] TokenRun Next(uint32_t count);
  // Back to the start of a stream; random tokens go on.
  void Rewind() { next_ = 0; }
  // The token at a place of the stream, which starts again at its end; a random one without.
  [[nodiscard]] TokenId At(uint64_t place);

 private:
  TokenSource(int32_t vocabulary, uint64_t seed) : vocabulary_(vocabulary), random_(seed) {}

  int32_t vocabulary_;
  std::mt19937_64 random_;
  std::vector<TokenId> stream_;
  size_t next_ = 0;
  std::vector<TokenId> drawn_;
};

struct TokenOptions {
  std::string ids_file;        // empty: random tokens
  std::string tokenizer_file;  // of the file's ids; empty: each id is its own compressed id
  uint64_t seed = 1;           // of the random ones
};
struct TokensOfModel {
  TokenSource tokens;
  std::vector<int32_t> compression;  // [vocabulary] token id -> compressed id
};
// For batches of up to `batch_max` tokens of a model with `compressed_ids`; 0 = as many as the
// tokens have. ERRORS: those of TokenSource and Tokenizer; kInvalidArgument if ids are not the
// tokenizer's or the model's.
[[nodiscard]] Result<TokensOfModel> MakeTokens(const TokenOptions& options, int32_t compressed_ids,
                                               uint32_t batch_max);

}  // namespace engram::bench
