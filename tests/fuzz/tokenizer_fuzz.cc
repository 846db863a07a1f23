// Tokenizer::Parse on any bytes, and on any change to a small tokenizer that does parse (a JSON
// merge patch, so that the 256 byte tokens need not be in every input); what parses encodes and
// decodes.
#include <cstdint>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "engram/tokenizer/byte_alphabet.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr size_t kTextBytesMax = 256;
constexpr std::string_view kText =
    "The 123 \u00e9\u4e2d\u6587  don't\r\n\t<a> <b>\U0001f600 \xff\xe4\xb8 aaaaaaaaaaaaaaaa";

json SmallTokenizer() {
  json vocab;
  const ByteAlphabet alphabet;
  for (int byte = 0; byte < 256; ++byte)
    vocab[alphabet.Spelling(static_cast<uint8_t>(byte))] = byte;
  vocab["th"] = 256;
  vocab["\u0120th"] = 257;
  return {{"added_tokens", json::array()},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", {"t h", "\u0120 th"}}}}};
}

void Exercise(std::string_view definition, std::string_view text) {
  const auto tokenizer = Tokenizer::Parse(definition, "fuzz.json");
  if (!tokenizer.has_value()) {
    ENGRAM_CHECK(!tokenizer.error().message().empty());
    return;
  }
  const auto ids = tokenizer->Encode(text);
  StreamDecoder decoder(&*tokenizer);
  std::string streamed;
  for (const TokenId id : ids) {
    ENGRAM_CHECK(id >= 0 && id < tokenizer->vocabulary_size());
    streamed += decoder.Next(id);
  }
  streamed += decoder.Finish();
  ENGRAM_CHECK(streamed == tokenizer->Decode(ids));
  if (tokenizer->vocabulary_size() > 1000) return;  // A high id alone makes a long table.
  const auto compression = CompressVocabulary(*tokenizer);
  ENGRAM_CHECK(compression.has_value());
  for (const int32_t id : compression->table) {
    ENGRAM_CHECK(id >= 0 && id < compression->compressed_vocab_size);
  }
}

}  // namespace
}  // namespace engram

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  engram::Exercise(input, engram::kText);
  const auto patch = nlohmann::json::parse(input, nullptr, /*allow_exceptions=*/false);
  if (!patch.is_object()) return 0;
  static const nlohmann::json base = engram::SmallTokenizer();
  nlohmann::json definition = base;
  std::string text(engram::kText);
  if (patch.contains("text") && patch["text"].is_string()) {
    text = patch["text"].get<std::string>().substr(0, engram::kTextBytesMax);
  }
  definition.merge_patch(patch);
  engram::Exercise(definition.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), text);
  return 0;
}
