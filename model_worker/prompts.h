// Prompts for `generate` and `compare`, from a file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"

namespace engram {

inline constexpr size_t kPromptsMax = 100'000;
inline constexpr size_t kPromptBytesMax = 16u << 20;  // of the whole file

// One prompt a line (empty lines are skipped), or a JSON array of strings where the file's first
// character is '['.
// ERRORS: kNotFound, kIo; kMalformed naming file and element; kResourceExhausted (too large).
[[nodiscard]] Result<std::vector<std::string>> ReadPrompts(const std::filesystem::path& file);
[[nodiscard]] Result<std::vector<std::string>> ParsePrompts(std::string_view text,
                                                            std::string_view name);

}  // namespace engram
