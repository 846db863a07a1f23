// Byte-level BPE from a Hugging Face tokenizer.json: encode, decode, and the raw token strings that
// token compression needs.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {

inline constexpr size_t kEncodeBytesMax = size_t{1} << 30;

// Immutable after Load; thread-safe.
class Tokenizer {
 public:
  // ERRORS: kNotFound, kMalformed, or kInvalidArgument "decoder type X is not supported: only
  // ByteLevel BPE" (likewise for a model, normaliser or pre-tokenizer we do not have).
  [[nodiscard]] static Result<Tokenizer> Load(const std::filesystem::path& tokenizer_json);
  [[nodiscard]] static Result<Tokenizer> Parse(std::string_view json, std::string_view name);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Highest id + 1, added tokens included.
  [[nodiscard]] int32_t vocabulary_size() const;
  // The token string as tokenizer.json spells it; empty for an id without a token.
  [[nodiscard]] std::string_view TokenString(TokenId id) const;
  // The bytes of one token, which may be a partial UTF-8 piece. An added token's content as is, but
  // for one written in the byte alphabet alone, which decodes like any other (as Hugging Face
  // does).
  [[nodiscard]] std::string_view TokenBytes(TokenId id) const;

  // Text -> ids. Added tokens in the text are recognised; no BOS is added. Invalid UTF-8 in `text`
  // becomes U+FFFD first. Precondition: text.size() <= kEncodeBytesMax.
  [[nodiscard]] std::vector<TokenId> Encode(std::string_view text) const;
  // Ids -> text; invalid UTF-8 becomes U+FFFD. Ids outside the vocabulary give nothing.
  [[nodiscard]] std::string Decode(std::span<const TokenId> ids) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Decodes a growing sequence piece by piece, holding back bytes of an unfinished character.
// Thread-compatible.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer* tokenizer) : tokenizer_(tokenizer) {}
  // The text that `id` completes; may be empty.
  [[nodiscard]] std::string Next(TokenId id);
  // What is left at the end, unfinished bytes as U+FFFD.
  [[nodiscard]] std::string Finish();

 private:
  const Tokenizer* tokenizer_;
  std::string pending_;
};

// Token compression (ENGRAM section 1).
struct TokenCompression {
  std::vector<int32_t> table;         // [vocabulary] token id -> compressed id
  int64_t compressed_vocab_size = 0;  // V
};
[[nodiscard]] Result<TokenCompression> CompressVocabulary(const Tokenizer& tokenizer);

// NFKC, NFD, marks dropped, lowercase, white space folded and stripped: one key per meaning.
// Exposed for tests.
[[nodiscard]] std::string NormaliseForCompression(std::string_view utf8);

}  // namespace engram
