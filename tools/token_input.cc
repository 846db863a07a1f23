#include "tools/token_input.h"

#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/token_ids.h"
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
