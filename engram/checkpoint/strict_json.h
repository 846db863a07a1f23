// JSON files of a model folder, read whole: bounded in size and depth, no key twice.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"

namespace engram {

inline constexpr uint64_t kReadFileBytesMax = 64u << 20;
inline constexpr int kJsonDepthMax = 64;

// ERRORS: kNotFound, kIo, kMalformed (more than kReadFileBytesMax).
[[nodiscard]] Result<std::string> ReadBoundedFile(const std::filesystem::path& file);

// Parses to an object. `name` is for messages.
// ERRORS: kMalformed: not JSON, not an object, a key twice in one object, or nested too deep.
[[nodiscard]] Result<nlohmann::json> ParseStrictJson(std::string_view text, std::string_view name);

// Text from outside, fit for a message: in quotes, bounded, without control characters.
[[nodiscard]] std::string Quoted(std::string_view text);

}  // namespace engram
