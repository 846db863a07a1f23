#include "bench/token_source.h"

#include <algorithm>
#include <string>
#include <utility>

#include "bench/v41_shape.h"
#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/token_ids.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram::bench {
namespace {
// More than any n-gram looks back.
constexpr size_t kHistoryTokens = 16;
}  // namespace

TokenSource TokenSource::Random(int32_t vocabulary, uint64_t seed) { return {vocabulary, seed}; }

Result<TokenSource> TokenSource::Open(const std::filesystem::path& ids_file, uint32_t batch_max) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string json, ReadBoundedFile(ids_file));
  ENGRAM_ASSIGN_OR_RETURN(std::vector<TokenId> ids, ParseTokenIds(json, ids_file.string()));
  if (ids.size() < batch_max) {
    return Error(StatusCode::kInvalidArgument,
                 ids_file.string() + " has " + std::to_string(ids.size()) +
                     " tokens, fewer than the largest batch of " + std::to_string(batch_max));
  }
  const auto [least, most] = std::minmax_element(ids.begin(), ids.end());
  if (*least < 0) {
    return Error(StatusCode::kMalformed, ids_file.string() + " has a negative token id");
  }
  TokenSource source(*most + 1, 0);
  source.stream_ = std::move(ids);
  return source;
}

TokenRun TokenSource::Next(uint32_t count) {
  if (stream_.empty()) {
    drawn_.resize(count);
    for (TokenId& id : drawn_) {
      id = static_cast<TokenId>(random_() % static_cast<uint64_t>(vocabulary_));
    }
    return {.tokens = drawn_};
  }
  if (next_ + count > stream_.size()) next_ = 0;
  const std::span<const TokenId> all(stream_);
  const size_t look_back = std::min(next_, kHistoryTokens);
  const TokenRun run{.history = all.subspan(next_ - look_back, look_back),
                     .tokens = all.subspan(next_, count)};
  next_ += count;
  return run;
}

TokenId TokenSource::At(uint64_t place) {
  if (!stream_.empty()) return stream_[place % stream_.size()];
  return static_cast<TokenId>(random_() % static_cast<uint64_t>(vocabulary_));
}

Result<TokensOfModel> MakeTokens(const TokenOptions& options, int32_t compressed_ids,
                                 uint32_t batch_max) {
  if (options.ids_file.empty()) {
    if (!options.tokenizer_file.empty()) {
      return Error(StatusCode::kInvalidArgument, "--tokenizer goes with --ids-file");
    }
    const int32_t ids = compressed_ids == 0 ? kV41CompressedIds : compressed_ids;
    return TokensOfModel{TokenSource::Random(ids, options.seed), IdentityCompression(ids)};
  }
  ENGRAM_ASSIGN_OR_RETURN(TokenSource tokens, TokenSource::Open(options.ids_file, batch_max));
  const std::string last_id = std::to_string(tokens.vocabulary() - 1);
  std::vector<int32_t> compression = IdentityCompression(tokens.vocabulary());
  if (!options.tokenizer_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(options.tokenizer_file));
    if (tokenizer.vocabulary_size() < tokens.vocabulary()) {
      return Error(StatusCode::kInvalidArgument,
                   options.ids_file + " has token id " + last_id + ", " + options.tokenizer_file +
                       " knows ids below " + std::to_string(tokenizer.vocabulary_size()));
    }
    ENGRAM_ASSIGN_OR_RETURN(TokenCompression of_tokenizer, CompressVocabulary(tokenizer));
    compression = std::move(of_tokenizer.table);
  }
  const int64_t ids = int64_t{*std::max_element(compression.begin(), compression.end())} + 1;
  if (compressed_ids != 0 && ids > compressed_ids) {
    return Error(StatusCode::kInvalidArgument,
                 options.ids_file + " has token id " + last_id + ", and the cluster's model has " +
                     std::to_string(compressed_ids) +
                     " compressed ids: give the --tokenizer of that model");
  }
  return TokensOfModel{std::move(tokens), std::move(compression)};
}

}  // namespace engram::bench
