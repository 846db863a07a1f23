#include "engram/tokenizer/tokenizer_definition.h"

#include <algorithm>
#include <exception>
#include <unordered_map>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/tokenizer/byte_alphabet.h"

namespace engram {
namespace {

using nlohmann::json;

constexpr int kSequenceDepthMax = 4;
// The pattern of ByteLevel's own splitting (GPT-2's).
constexpr const char* kByteLevelPattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Status Malformed(const std::string& what) { return Status(StatusCode::kMalformed, what); }

Status Unsupported(const std::string& what, const std::string& found,
                   const std::string& supported) {
  return Status(StatusCode::kInvalidArgument,
                what + " " + found + " is not supported: only " + supported);
}

// A member, or null where it is absent or `object` is none.
const json& Member(const json& object, const char* key) {
  static const json null;
  const auto found = object.find(key);
  return found == object.end() ? null : *found;
}

// For messages: a short form of what was found.
std::string Shown(const json& value) {
  if (value.is_null()) return "(none)";
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 80) + "...";
  return text;
}

Result<bool> Flag(const json& object, const char* key, bool otherwise, const std::string& where) {
  const json& value = Member(object, key);
  if (value.is_null()) return otherwise;
  if (!value.is_boolean()) {
    return Error(Malformed(where + "." + key + " is " + Shown(value) + ", must be true or false"));
  }
  return value.get<bool>();
}

// The parts of a "Sequence", or the value itself as the only part; nothing for null.
Status Flatten(const json& value, const char* key, const std::string& where, int depth,
               std::vector<const json*>& parts) {
  if (value.is_null()) return Status();
  if (!value.is_object()) return Malformed(where + " is " + Shown(value) + ", must be an object");
  if (Member(value, "type") != "Sequence") {
    parts.push_back(&value);
    return Status();
  }
  if (depth == kSequenceDepthMax) return Malformed(where + ": sequences are nested too deep");
  const json& members = Member(value, key);
  if (!members.is_array()) return Malformed(where + " is a Sequence without an array " + key);
  for (const json& member : members) {
    ENGRAM_RETURN_IF_ERROR(Flatten(member, key, where, depth + 1, parts));
  }
  return Status();
}

class DefinitionReader {
 public:
  Result<TokenizerDefinition> Read(const json& root) {
    if (!root.is_object()) return Error(Malformed("is not a JSON object"));
    ENGRAM_TRY(ReadModel(Member(root, "model")));
    ENGRAM_TRY(ReadNormalizer(Member(root, "normalizer")));
    ENGRAM_TRY(ReadPreTokenizer(Member(root, "pre_tokenizer")));
    ENGRAM_TRY(ReadDecoder(Member(root, "decoder")));
    ENGRAM_TRY(ReadAddedTokens(Member(root, "added_tokens")));
    return std::move(definition_);
  }

 private:
  Status ReadModel(const json& model);
  Status ReadVocabulary(const json& vocabulary);
  Status ReadMerges(const json& merges);
  Status ReadMerge(const json& merge, size_t rank);
  Status ReadNormalizer(const json& normalizer);
  Status ReadPreTokenizer(const json& pre_tokenizer);
  Status ReadSplit(const json& split);
  Status ReadDecoder(const json& decoder);
  Status ReadAddedTokens(const json& added_tokens);
  Result<AddedToken> ReadAddedToken(const json& token, const std::string& where);
  Status PlaceToken(const std::string& text, TokenId id);

  TokenizerDefinition definition_;
  std::unordered_map<std::string, TokenId> ids_;
};

Result<TokenId> ReadId(const json& value, const std::string& where) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() >= static_cast<uint64_t>(kTokenIdEnd)) {
    return Error(Malformed(where + " has the id " + Shown(value) + ", must be 0 to " +
                           std::to_string(kTokenIdEnd - 1)));
  }
  return static_cast<TokenId>(value.get<uint64_t>());
}

Status DefinitionReader::PlaceToken(const std::string& text, TokenId id) {
  auto& tokens = definition_.tokens;
  const auto index = static_cast<size_t>(id);
  if (tokens.size() <= index) tokens.resize(index + 1);
  if (!tokens[index].empty() && tokens[index] != text) {
    return Malformed("the tokens " + Shown(tokens[index]) + " and " + Shown(text) +
                     " have the same id " + std::to_string(id));
  }
  tokens[index] = text;
  return Status();
}

Status DefinitionReader::ReadModel(const json& model) {
  if (!model.is_object()) return Malformed("has no object \"model\"");
  // Files of old versions of the library name no model type; BPE is then the one with merges.
  const json& type = Member(model, "type");
  if (type != "BPE" && !(type.is_null() && model.contains("merges"))) {
    return Unsupported("model type", Shown(type), "BPE");
  }
  const json& dropout = Member(model, "dropout");
  if (!dropout.is_null() && dropout != 0)
    return Unsupported("model dropout", Shown(dropout), "null");
  for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json& value = Member(model, key);
    if (!value.is_null() && value != "") {
      return Unsupported(std::string("model ") + key, Shown(value), "null");
    }
  }
  auto ignore_merges = Flag(model, "ignore_merges", false, "model");
  if (!ignore_merges.has_value()) return ignore_merges.error();
  definition_.ignore_merges = *ignore_merges;
  ENGRAM_RETURN_IF_ERROR(ReadVocabulary(Member(model, "vocab")));
  return ReadMerges(Member(model, "merges"));
}

Status DefinitionReader::ReadVocabulary(const json& vocabulary) {
  if (!vocabulary.is_object()) return Malformed("model.vocab must be an object of token: id");
  ids_.reserve(vocabulary.size());
  for (const auto& [token, value] : vocabulary.items()) {
    if (token.empty()) return Malformed("model.vocab holds an empty token");
    const auto id = ReadId(value, "the token " + Shown(token) + " in model.vocab");
    if (!id.has_value()) return id.error();
    ENGRAM_RETURN_IF_ERROR(PlaceToken(token, *id));
    ids_.emplace(token, *id);
  }
  const ByteAlphabet alphabet;
  for (size_t byte = 0; byte < definition_.byte_ids.size(); ++byte) {
    const std::string& spelling = alphabet.Spelling(static_cast<uint8_t>(byte));
    const auto found = ids_.find(spelling);
    if (found == ids_.end()) {
      return Unsupported("a vocabulary without the token",
                         Shown(spelling) + " for the byte " + std::to_string(byte),
                         "byte-level BPE with a token for each of the 256 bytes");
    }
    definition_.byte_ids[byte] = found->second;
  }
  return Status();
}

Status DefinitionReader::ReadMerges(const json& merges) {
  if (!merges.is_array()) return Malformed("model.merges must be an array");
  definition_.merges.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    ENGRAM_RETURN_IF_ERROR(ReadMerge(merges[rank], rank));
  }
  return Status();
}

Status DefinitionReader::ReadMerge(const json& merge, size_t rank) {
  std::array<std::string, 2> parts;
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      return Malformed("merge " + std::to_string(rank) + " is " + Shown(merge) +
                       ", must be two tokens with one space between");
    }
    parts = {text.substr(0, space), text.substr(space + 1)};
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
             merge[1].is_string()) {
    parts = {merge[0].get<std::string>(), merge[1].get<std::string>()};
  } else {
    return Malformed("merge " + std::to_string(rank) + " is " + Shown(merge) +
                     ", must be \"a b\" or [\"a\", \"b\"]");
  }
  std::array<TokenId, 3> ids{};
  const std::array<std::string, 3> tokens = {parts[0], parts[1], parts[0] + parts[1]};
  for (size_t i = 0; i < tokens.size(); ++i) {
    const auto found = ids_.find(tokens[i]);
    if (found == ids_.end()) {
      return Malformed("merge " + std::to_string(rank) + " needs the token " + Shown(tokens[i]) +
                       ", which is not in model.vocab");
    }
    ids[i] = found->second;
  }
  definition_.merges.push_back({ids[0], ids[1], ids[2]});
  return Status();
}

Status DefinitionReader::ReadNormalizer(const json& normalizer) {
  std::vector<const json*> parts;
  ENGRAM_RETURN_IF_ERROR(Flatten(normalizer, "normalizers", "normalizer", 0, parts));
  for (const json* part : parts) {
    const json& type = Member(*part, "type");
    if (type == "NFC") {
      definition_.normal_forms.push_back(NormalForm::kNfc);
    } else if (type == "NFD") {
      definition_.normal_forms.push_back(NormalForm::kNfd);
    } else if (type == "NFKC") {
      definition_.normal_forms.push_back(NormalForm::kNfkc);
    } else if (type == "NFKD") {
      definition_.normal_forms.push_back(NormalForm::kNfkd);
    } else {
      return Unsupported("normalizer type", Shown(type),
                         "NFC, NFD, NFKC, NFKD and sequences of them");
    }
  }
  if (definition_.normal_forms.size() > kSplitStepsMax) {
    return Malformed("normalizer has more than " + std::to_string(kSplitStepsMax) + " steps");
  }
  return Status();
}

Status DefinitionReader::ReadPreTokenizer(const json& pre_tokenizer) {
  std::vector<const json*> parts;
  ENGRAM_RETURN_IF_ERROR(Flatten(pre_tokenizer, "pretokenizers", "pre_tokenizer", 0, parts));
  using Kind = SplitStep::Kind;
  auto& steps = definition_.split_steps;
  for (size_t i = 0; i < parts.size(); ++i) {
    const json& type = Member(*parts[i], "type");
    if (type == "Split") {
      ENGRAM_RETURN_IF_ERROR(ReadSplit(*parts[i]));
    } else if (type == "Digits") {
      auto individual = Flag(*parts[i], "individual_digits", false, "pre_tokenizer");
      if (!individual.has_value()) return individual.error();
      steps.push_back({Kind::kIsolate, false, *individual ? R"(\p{N})" : R"(\p{N}+)"});
    } else if (type == "ByteLevel" && i + 1 == parts.size()) {
      auto prefix = Flag(*parts[i], "add_prefix_space", true, "pre_tokenizer");
      auto use_regex = Flag(*parts[i], "use_regex", true, "pre_tokenizer");
      if (!prefix.has_value()) return prefix.error();
      if (!use_regex.has_value()) return use_regex.error();
      if (*prefix) steps.push_back({Kind::kAddPrefixSpace, false, ""});
      if (*use_regex) steps.push_back({Kind::kIsolate, false, kByteLevelPattern});
    } else {
      return Unsupported("pre-tokenizer type", Shown(type),
                         "Split, Digits and, as the last one, ByteLevel");
    }
  }
  if (parts.empty() || Member(*parts.back(), "type") != "ByteLevel") {
    return Unsupported("a pre_tokenizer ending in",
                       parts.empty() ? "(none)" : Shown(Member(*parts.back(), "type")),
                       "one that ends in ByteLevel");
  }
  if (steps.size() > kSplitStepsMax) {
    return Malformed("pre_tokenizer has more than " + std::to_string(kSplitStepsMax) + " steps");
  }
  return Status();
}

Status DefinitionReader::ReadSplit(const json& split) {
  using Kind = SplitStep::Kind;
  SplitStep step;
  const json& pattern = Member(split, "pattern");
  const json& regex = Member(pattern, "Regex");
  const json& literal = Member(pattern, "String");
  step.literal = literal.is_string();
  const json& text = step.literal ? literal : regex;
  if (!text.is_string() || text.get_ref<const std::string&>().empty()) {
    return Malformed("pre_tokenizer Split has the pattern " + Shown(pattern) +
                     ", must be {\"Regex\": ...} or {\"String\": ...}");
  }
  step.pattern = text.get<std::string>();
  if (step.pattern.size() > kPatternBytesMax) {
    return Malformed("pre_tokenizer Split has a pattern of more than " +
                     std::to_string(kPatternBytesMax) + " bytes");
  }
  const auto invert = Flag(split, "invert", false, "pre_tokenizer Split");
  if (!invert.has_value()) return invert.error();
  const json& behavior = Member(split, "behavior");
  if (behavior == "Isolated") {
    step.kind = Kind::kIsolate;  // Inverted or not, every piece stays.
  } else if (behavior == "Removed") {
    step.kind = *invert ? Kind::kKeepMatches : Kind::kRemoveMatches;
  } else {
    return Unsupported("pre-tokenizer Split behavior", Shown(behavior), "Isolated and Removed");
  }
  definition_.split_steps.push_back(std::move(step));
  return Status();
}

Status DefinitionReader::ReadDecoder(const json& decoder) {
  std::vector<const json*> parts;
  ENGRAM_RETURN_IF_ERROR(Flatten(decoder, "decoders", "decoder", 0, parts));
  size_t byte_levels = 0;
  for (const json* part : parts) {
    const json& type = Member(*part, "type");
    // "Fuse" joins the pieces into one, which decoding bytes does anyway.
    if (type != "ByteLevel" && type != "Fuse") {
      return Unsupported("decoder type", Shown(type), "ByteLevel BPE");
    }
    byte_levels += type == "ByteLevel";
  }
  if (byte_levels != 1) {
    return Unsupported("decoder type", parts.empty() ? "(none)" : Shown(decoder), "ByteLevel BPE");
  }
  return Status();
}

Result<AddedToken> DefinitionReader::ReadAddedToken(const json& token, const std::string& where) {
  if (!token.is_object() || !Member(token, "content").is_string()) {
    return Error(Malformed(where + " is " + Shown(token) + ", must be an object with a content"));
  }
  AddedToken out;
  out.content = Member(token, "content").get<std::string>();
  if (out.content.size() > kAddedTokenBytesMax) {
    return Error(Malformed(where + " has more than " + std::to_string(kAddedTokenBytesMax) +
                           " bytes of content"));
  }
  ENGRAM_ASSIGN_OR_RETURN(out.id, ReadId(Member(token, "id"), where));
  ENGRAM_ASSIGN_OR_RETURN(out.single_word, Flag(token, "single_word", false, where));
  ENGRAM_ASSIGN_OR_RETURN(out.lstrip, Flag(token, "lstrip", false, where));
  ENGRAM_ASSIGN_OR_RETURN(out.rstrip, Flag(token, "rstrip", false, where));
  ENGRAM_ASSIGN_OR_RETURN(const bool special, Flag(token, "special", false, where));
  ENGRAM_ASSIGN_OR_RETURN(out.normalized, Flag(token, "normalized", !special, where));
  return out;
}

Status DefinitionReader::ReadAddedTokens(const json& added_tokens) {
  if (added_tokens.is_null()) return Status();
  if (!added_tokens.is_array()) return Malformed("added_tokens must be an array");
  for (size_t i = 0; i < added_tokens.size(); ++i) {
    auto token = ReadAddedToken(added_tokens[i], "added_tokens[" + std::to_string(i) + "]");
    if (!token.has_value()) return token.error();
    if (token->content.empty()) continue;
    const auto found = ids_.find(token->content);
    if (found != ids_.end() && found->second != token->id) {
      return Malformed("the added token " + Shown(token->content) + " has the id " +
                       std::to_string(token->id) + ", but " + std::to_string(found->second) +
                       " in the vocabulary");
    }
    token->in_model = static_cast<size_t>(token->id) < definition_.tokens.size() &&
                      definition_.tokens[static_cast<size_t>(token->id)] == token->content;
    ids_.emplace(token->content, token->id);
    ENGRAM_RETURN_IF_ERROR(PlaceToken(token->content, token->id));
    definition_.added_tokens.push_back(*std::move(token));
  }
  return Status();
}

}  // namespace

Result<TokenizerDefinition> ParseTokenizerDefinition(std::string_view text, std::string_view name) {
  if (text.size() > kTokenizerFileBytesMax) {
    return Error(StatusCode::kInvalidArgument,
                 std::string(name) + " has " + std::to_string(text.size()) + " bytes, at most " +
                     std::to_string(kTokenizerFileBytesMax) + " are read");
  }
  try {
    const json root = json::parse(text.begin(), text.end());
    Result<TokenizerDefinition> definition = DefinitionReader().Read(root);
    if (!definition.has_value()) return Error(definition.error().WithContext(name));
    return definition;
  } catch (const json::parse_error& error) {
    return Error(StatusCode::kMalformed,
                 std::string(name) + ": not JSON: byte " + std::to_string(error.byte));
  } catch (const std::exception& error) {
    return Error(StatusCode::kMalformed, std::string(name) + ": " + error.what());
  }
}

}  // namespace engram
