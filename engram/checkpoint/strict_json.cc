#include "engram/checkpoint/strict_json.h"

#include <cerrno>
#include <cstring>
#include <memory>
#include <set>
#include <vector>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace engram {
namespace {

constexpr size_t kQuotedBytesMax = 200;

struct CloseFile {
  int fd;
  ~CloseFile() { ::close(fd); }
};

std::string SystemReason() { return std::strerror(errno); }

}  // namespace

std::string Quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text.substr(0, kQuotedBytesMax)) {
    const auto byte = static_cast<unsigned char>(c);
    out.push_back(byte < 0x20 || byte == 0x7f ? '?' : c);
  }
  if (text.size() > kQuotedBytesMax) out += "...";
  out.push_back('"');
  return out;
}

Result<std::string> ReadBoundedFile(const std::filesystem::path& file) {
  const int fd = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const auto code = errno == ENOENT || errno == ENOTDIR ? StatusCode::kNotFound : StatusCode::kIo;
    return Error(code, "cannot open " + file.string() + ": " + SystemReason());
  }
  const CloseFile closer{fd};
  struct stat info {};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    return Error(StatusCode::kIo, file.string() + " is not a file that can be read");
  }
  const auto bytes = static_cast<uint64_t>(info.st_size);
  if (bytes > kReadFileBytesMax) {
    return Error(StatusCode::kMalformed, file.string() + " has " + std::to_string(bytes) +
                                             " bytes, expected at most " +
                                             std::to_string(kReadFileBytesMax));
  }
  std::string text(bytes, '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0)
      return Error(StatusCode::kIo, "cannot read " + file.string() + ": " + SystemReason());
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

Result<nlohmann::json> ParseStrictJson(std::string_view text, std::string_view name) {
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of every open object
  std::string fault;
  const auto watch = [&](int depth, Event event, nlohmann::json& parsed) {
    if (!fault.empty()) return false;
    if (depth > kJsonDepthMax) {
      fault = "nested deeper than " + std::to_string(kJsonDepthMax);
      return false;
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key && !keys.back().insert(parsed.get_ref<const std::string&>()).second) {
      fault = "the key " + Quoted(parsed.get_ref<const std::string&>()) + " stands twice";
    }
    return fault.empty();
  };
  nlohmann::json document;
  try {
    document = nlohmann::json::parse(text, watch);
  } catch (const nlohmann::json::exception& error) {
    if (fault.empty()) {
      return Error(StatusCode::kMalformed,
                   std::string(name) + " is not JSON: " + std::string(error.what()).substr(0, 300));
    }
  }
  if (!fault.empty()) return Error(StatusCode::kMalformed, std::string(name) + ": " + fault);
  if (!document.is_object()) {
    return Error(StatusCode::kMalformed, std::string(name) + " is not a JSON object");
  }
  return document;
}

}  // namespace engram
