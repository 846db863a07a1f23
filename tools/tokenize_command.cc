#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engram/checkpoint/strict_json.h"
#include "engram/tokenizer/tokenizer.h"
#include "tools/command.h"

namespace engram {
namespace {

Status Run(const std::filesystem::path& tokenizer_json,
           const std::vector<std::filesystem::path>& text_files, uint64_t tokens_max) {
  const auto tokenizer = Tokenizer::Load(tokenizer_json);
  if (!tokenizer.has_value()) return tokenizer.error();
  std::vector<TokenId> ids;
  for (const std::filesystem::path& file : text_files) {
    const auto text = ReadBoundedFile(file);
    if (!text.has_value()) return text.error();
    const std::vector<TokenId> more = tokenizer->Encode(*text);
    ids.insert(ids.end(), more.begin(), more.end());
    if (tokens_max != 0 && ids.size() >= tokens_max) {
      ids.resize(tokens_max);
      break;
    }
  }
  return Print(nlohmann::json(ids).dump() + "\n");
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, CommandLine& line) {
  struct Options {
    std::filesystem::path tokenizer_json;
    std::vector<std::filesystem::path> text_files;
    uint64_t tokens_max = 0;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("tokenize", "Print the token ids of texts as a JSON list");
  command->footer(
      "The texts follow one another as one stream; no BOS is added. What it prints is what every\n"
      "--ids-file takes. Example:\n"
      "  engramctl tokenize --tokenizer tokenizer.json --text-file a.txt b.txt > stream.json");
  command->add_option("--tokenizer", options->tokenizer_json, "A Hugging Face tokenizer.json")
      ->type_name("FILE")
      ->required();
  command->add_option("--text-file", options->text_files, "UTF-8 texts of up to 64 MiB each")
      ->type_name("FILE...")
      ->required();
  command->add_option("--tokens", options->tokens_max, "Stop after so many; 0 = all")
      ->capture_default_str();
  command->callback([options, &line] {
    line.run = [options] {
      return Run(options->tokenizer_json, options->text_files, options->tokens_max);
    };
  });
}

}  // namespace engram
