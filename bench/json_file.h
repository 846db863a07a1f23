// JSON files that may be anything.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"

namespace engram::bench {

inline constexpr uint64_t kJsonBytesMax = 64u << 20;

// ERRORS: kMalformed: it is no JSON.
[[nodiscard]] Result<nlohmann::json> ParseJson(std::string_view text);

// The bytes of a regular file.
// ERRORS: kNotFound or kIo: no such file, or it cannot be read; kResourceExhausted: more than
// kJsonBytesMax. The caller names the file.
[[nodiscard]] Result<std::string> ReadJsonBytes(const std::filesystem::path& file);

}  // namespace engram::bench
