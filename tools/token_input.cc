#include "tools/token_input.h"

#include <limits>

#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/tokenizer.h"

namespace engram {

void AddTokenInputOptions(CLI::App& command, TokenInput& input) {
  auto* group = command.add_option_group("input", "One of");
  group->add_option("--text-file", input.text_file, "A UTF-8 text; encoded with tokenizer.json")
      ->type_name("FILE");
  group->add_option("--ids-file", input.ids_file, "One JSON list of token ids: [1, 2, 3]")
      ->type_name("FILE");
  group->require_option(1);
}

Result<std::vector<TokenId>> ParseTokenIds(std::string_view json, std::string_view name) {
  const auto document = nlohmann::json::parse(json, nullptr, false);
  if (!document.is_array()) {
    return Error(StatusCode::kMalformed,
                 std::string(name) + " is not one JSON list of token ids, such as [1, 2, 3]");
  }
  std::vector<TokenId> ids;
  ids.reserve(document.size());
  for (const auto& item : document) {
    constexpr auto kLow = std::numeric_limits<TokenId>::min();
    constexpr auto kHigh = std::numeric_limits<TokenId>::max();
    // Unsigned numbers past int64 would come back negative.
    const bool fits = item.is_number_unsigned() ? item.get<uint64_t>() <= uint64_t{kHigh}
                      : item.is_number_integer()
                          ? item.get<int64_t>() >= kLow && item.get<int64_t>() <= kHigh
                          : false;
    if (!fits) {
      return Error(StatusCode::kMalformed, std::string(name) + ": item " +
                                               std::to_string(ids.size()) +
                                               " is not a whole number of 32 bits");
    }
    ids.push_back(static_cast<TokenId>(item.get<int64_t>()));
  }
  return ids;
}

Result<std::vector<TokenId>> ReadTokens(const TokenInput& input,
                                        const std::filesystem::path& model_dir) {
  if (!input.ids_file.empty()) {
    ENGRAM_ASSIGN_OR_RETURN(const std::string json, ReadBoundedFile(input.ids_file));
    return ParseTokenIds(json, input.ids_file.string());
  }
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadBoundedFile(input.text_file));
  ENGRAM_ASSIGN_OR_RETURN(const Tokenizer tokenizer, Tokenizer::Load(model_dir / "tokenizer.json"));
  return tokenizer.Encode(text);
}

}  // namespace engram
