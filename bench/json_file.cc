#include "bench/json_file.h"

#include <cerrno>
#include <cstring>
#include <fstream>

#include "bench/json_fields.h"

namespace engram::bench {

using nlohmann::json;

Result<std::string> ReadJsonBytes(const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return Error(StatusCode::kNotFound, "no such file");
  if (!std::filesystem::is_regular_file(file, error)) {
    return Error(StatusCode::kIo, "is not a regular file");
  }
  const uintmax_t bytes = std::filesystem::file_size(file, error);
  if (error) return Error(StatusCode::kIo, error.message());
  if (bytes > kJsonBytesMax) {
    return Error(StatusCode::kResourceExhausted, "has " + std::to_string(bytes) +
                                                     " bytes; at most " +
                                                     std::to_string(kJsonBytesMax) + " are read");
  }
  std::ifstream in(file, std::ios::binary);
  std::string text(bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(bytes));
  if (!in) return Error(StatusCode::kIo, std::strerror(errno));
  return text;
}

Result<json> ParseJson(std::string_view text) {
  try {
    return json::parse(text);
  } catch (const json::exception& error) {
    return Malformed(std::string("is not JSON, or only a part of it: ") + error.what());
  }
}

}  // namespace engram::bench
