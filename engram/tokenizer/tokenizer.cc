#include "engram/tokenizer/tokenizer.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <system_error>
#include <utility>

#include "engram/base/check.h"
#include "engram/tokenizer/added_token_finder.h"
#include "engram/tokenizer/bpe_model.h"
#include "engram/tokenizer/byte_alphabet.h"
#include "engram/tokenizer/text_splitter.h"
#include "engram/tokenizer/tokenizer_definition.h"
#include "engram/tokenizer/utf8.h"

namespace engram {
namespace {

// The bytes that each token stands for. A token with a character outside the byte alphabet, as most
// added tokens have, stands for its own text.
std::vector<std::string> BytesOfTokens(const std::vector<std::string>& tokens) {
  const ByteAlphabet alphabet;
  std::vector<std::string> bytes;
  bytes.reserve(tokens.size());
  for (const std::string& token : tokens) {
    std::optional<std::string> spelt = alphabet.Bytes(token);
    bytes.push_back(spelt.has_value() ? *std::move(spelt) : token);
  }
  return bytes;
}

}  // namespace

struct Tokenizer::Impl {
  Impl(TokenizerDefinition definition, TextSplitter text_splitter)
      : tokens(std::move(definition.tokens)),
        token_bytes(BytesOfTokens(tokens)),
        splitter(std::move(text_splitter)),
        bpe(definition, token_bytes) {
    for (const AddedToken& token : definition.added_tokens) {
      if (!token.normalized) {
        added.Add(token.content, token);
        continue;
      }
      const std::string content = splitter.Normalise(token.content);
      if (!content.empty()) normalised_added.Add(content, token);
    }
  }

  void EncodeNormalised(std::string_view text, std::vector<TokenId>& ids) const;
  void EncodePlain(std::string_view text, BpeScratch& scratch, std::vector<TokenId>& ids) const;

  std::vector<std::string> tokens;
  std::vector<std::string> token_bytes;
  TextSplitter splitter;
  BpeModel bpe;
  AddedTokenFinder added;             // looked for in the text as it is
  AddedTokenFinder normalised_added;  // looked for in what lies between those, normalised
};

void Tokenizer::Impl::EncodePlain(std::string_view text, BpeScratch& scratch,
                                  std::vector<TokenId>& ids) const {
  std::string storage;
  for (const std::string_view piece : splitter.Split(text, storage)) {
    bpe.Encode(piece, scratch, ids);
  }
}

void Tokenizer::Impl::EncodeNormalised(std::string_view text, std::vector<TokenId>& ids) const {
  BpeScratch scratch;
  const std::string normalised = splitter.Normalise(text);
  std::vector<TextStretch> stretches;
  normalised_added.Cut(normalised, stretches);
  for (const TextStretch& stretch : stretches) {
    if (stretch.id >= 0) {
      ids.push_back(stretch.id);
    } else {
      EncodePlain(stretch.text, scratch, ids);
    }
  }
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Result<Tokenizer> Tokenizer::Load(const std::filesystem::path& tokenizer_json) {
  const std::string name = tokenizer_json.string();
  std::error_code error;
  if (!std::filesystem::exists(tokenizer_json, error)) {
    return Error(StatusCode::kNotFound,
                 name + " does not exist: a model folder needs its tokenizer");
  }
  const auto size = std::filesystem::file_size(tokenizer_json, error);
  if (error) return Error(StatusCode::kIo, name + ": " + error.message());
  if (size > kTokenizerFileBytesMax) {
    return Error(StatusCode::kInvalidArgument,
                 name + " has " + std::to_string(size) + " bytes, at most " +
                     std::to_string(kTokenizerFileBytesMax) + " are read: is it a tokenizer.json?");
  }
  std::ifstream file(tokenizer_json, std::ios::binary);
  std::string json(static_cast<size_t>(size), '\0');
  if (!file.read(json.data(), static_cast<std::streamsize>(size))) {
    return Error(StatusCode::kIo, name + " cannot be read: " + std::strerror(errno));
  }
  return Parse(json, name);
}

Result<Tokenizer> Tokenizer::Parse(std::string_view json, std::string_view name) {
  ENGRAM_ASSIGN_OR_RETURN(TokenizerDefinition definition, ParseTokenizerDefinition(json, name));
  auto splitter = TextSplitter::Create(definition.normal_forms, definition.split_steps);
  if (!splitter.has_value()) return Error(splitter.error().WithContext(name));
  return Tokenizer(std::make_unique<const Impl>(std::move(definition), *std::move(splitter)));
}

int32_t Tokenizer::vocabulary_size() const { return static_cast<int32_t>(impl_->tokens.size()); }

std::string_view Tokenizer::TokenString(TokenId id) const {
  if (id < 0 || id >= vocabulary_size()) return {};
  return impl_->tokens[static_cast<size_t>(id)];
}

std::string_view Tokenizer::TokenBytes(TokenId id) const {
  if (id < 0 || id >= vocabulary_size()) return {};
  return impl_->token_bytes[static_cast<size_t>(id)];
}

std::vector<TokenId> Tokenizer::Encode(std::string_view text) const {
  ENGRAM_CHECK(text.size() <= kEncodeBytesMax);
  std::string repaired;
  repaired.reserve(text.size());
  AppendRepaired(text, repaired);
  std::vector<TextStretch> stretches;
  impl_->added.Cut(repaired, stretches);
  std::vector<TokenId> ids;
  ids.reserve(repaired.size() / 4);
  for (const TextStretch& stretch : stretches) {
    if (stretch.id >= 0) {
      ids.push_back(stretch.id);
    } else {
      impl_->EncodeNormalised(stretch.text, ids);
    }
  }
  return ids;
}

std::string Tokenizer::Decode(std::span<const TokenId> ids) const {
  std::string bytes;
  for (const TokenId id : ids) bytes += TokenBytes(id);
  std::string text;
  text.reserve(bytes.size());
  AppendRepaired(bytes, text);
  return text;
}

std::string StreamDecoder::Next(TokenId id) {
  pending_ += tokenizer_->TokenBytes(id);
  const size_t held = UnfinishedBytes(pending_);
  std::string text;
  AppendRepaired(std::string_view(pending_).substr(0, pending_.size() - held), text);
  pending_.erase(0, pending_.size() - held);
  return text;
}

std::string StreamDecoder::Finish() {
  std::string text;
  AppendRepaired(pending_, text);
  pending_.clear();
  return text;
}

}  // namespace engram
