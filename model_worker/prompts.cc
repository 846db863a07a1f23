#include "model_worker/prompts.h"

#include <fstream>
#include <iterator>
#include <utility>

#include <nlohmann/json.hpp>

namespace engram {
namespace {

Result<std::vector<std::string>> ParseJsonPrompts(std::string_view text, std::string_view name) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array()) {
    return Error(StatusCode::kMalformed,
                 std::string(name) + " starts with '[' but is not a JSON array of strings");
  }
  std::vector<std::string> prompts;
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_string() || json[i].get_ref<const std::string&>().empty()) {
      return Error(StatusCode::kMalformed, std::string(name) + ": element " + std::to_string(i) +
                                               " is not a string with at least one character");
    }
    prompts.push_back(json[i].get<std::string>());
  }
  return prompts;
}

}  // namespace

Result<std::vector<std::string>> ParsePrompts(std::string_view text, std::string_view name) {
  std::vector<std::string> prompts;
  if (text.starts_with('[')) {
    ENGRAM_ASSIGN_OR_RETURN(prompts, ParseJsonPrompts(text, name));
  } else {
    while (!text.empty()) {
      const size_t end = std::min(text.find('\n'), text.size());
      std::string_view line = text.substr(0, end);
      text.remove_prefix(std::min(end + 1, text.size()));
      if (line.ends_with('\r')) line.remove_suffix(1);
      if (!line.empty()) prompts.emplace_back(line);
    }
  }
  if (prompts.empty()) {
    return Error(StatusCode::kMalformed, std::string(name) + " holds no prompt: one a line");
  }
  if (prompts.size() > kPromptsMax) {
    return Error(StatusCode::kResourceExhausted,
                 std::string(name) + " holds " + std::to_string(prompts.size()) +
                     " prompts; at most " + std::to_string(kPromptsMax) + " are taken");
  }
  return prompts;
}

Result<std::vector<std::string>> ReadPrompts(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) {
    return Error(StatusCode::kNotFound, "cannot open the prompts file " + file.string());
  }
  std::string text;
  char buffer[1 << 16];
  while (in.read(buffer, sizeof(buffer)) || in.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(in.gcount()));
    if (text.size() > kPromptBytesMax) {
      return Error(StatusCode::kResourceExhausted, file.string() + " is larger than " +
                                                       std::to_string(kPromptBytesMax) +
                                                       " bytes: split it");
    }
  }
  if (in.bad()) return Error(StatusCode::kIo, "reading " + file.string() + " failed");
  return ParsePrompts(text, file.string());
}

}  // namespace engram
