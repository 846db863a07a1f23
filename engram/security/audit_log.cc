#include "engram/security/audit_log.h"

#include <chrono>
#include <cstdio>
#include <ctime>
#include <exception>
#include <utility>

#include <nlohmann/json.hpp>
#include <spdlog/sinks/rotating_file_sink.h>
#include <spdlog/spdlog.h>

namespace engram {
namespace {

std::string TimeText() {
  const auto now = std::chrono::system_clock::now();
  const auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch());
  const auto seconds = static_cast<std::time_t>(ms.count() / 1000);
  std::tm utc{};
  ::gmtime_r(&seconds, &utc);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
  char with_ms[40];
  std::snprintf(with_ms, sizeof(with_ms), "%.*s.%03dZ", static_cast<int>(length), text,
                static_cast<int>(ms.count() % 1000));
  return with_ms;
}

std::string Line(const AuditEntry& entry) {
  const nlohmann::ordered_json line = {
      {"time", TimeText()},
      {"who", entry.who == nullptr ? "" : entry.who->name},
      {"role", entry.who == nullptr ? "" : std::string(RoleName(entry.who->role))},
      {"from", entry.from},
      {"what", entry.what},
      {"about", entry.about},
      {"outcome", StatusCodeName(entry.outcome.code())},
      {"message", entry.outcome.message()}};
  // Names and methods come from peers: whatever is no UTF-8 is replaced, and JSON escapes the rest.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

// Whether nothing was changed, as far as is known here. A caller can be told these as often as it
// likes; the others only as often as something happens, or fails in us.
bool ChangedNothing(StatusCode outcome) {
  switch (outcome) {
    case StatusCode::kOk:
    case StatusCode::kDeadlineExceeded:
    case StatusCode::kInternal:
    case StatusCode::kIo:
      return false;
    default:
      return true;
  }
}

class RotatingAuditLog final : public AuditLog {
 public:
  explicit RotatingAuditLog(const Options& options)
      : changes_(options.file, options), refusals_(RefusalsBeside(options.file), options) {}

  void Write(const AuditEntry& entry) override {
    (ChangedNothing(entry.outcome.code()) ? refusals_ : changes_).Write(Line(entry));
  }

 private:
  class File {
   public:
    File(std::filesystem::path file, const Options& options)
        : file_(std::move(file)), sink_(file_.string(), options.bytes_max, options.files_max) {
      sink_.set_pattern("%v");
    }
    void Write(const std::string& line) {
      try {
        sink_.log(spdlog::details::log_msg("audit", spdlog::level::info, line));
        sink_.flush();
      } catch (const std::exception& error) {
        spdlog::error("cannot write the audit log {} ({}): {}", file_.string(), error.what(), line);
      }
    }

   private:
    const std::filesystem::path file_;
    spdlog::sinks::rotating_file_sink_mt sink_;  // has its own lock
  };
  File changes_;
  File refusals_;
};

}  // namespace

std::filesystem::path RefusalsBeside(const std::filesystem::path& file) {
  std::filesystem::path beside = file;
  beside.replace_extension();
  beside += ".refused";
  beside += file.extension();
  return beside;
}

Result<std::shared_ptr<AuditLog>> AuditLog::Open(const Options& options) {
  try {
    return std::make_shared<RotatingAuditLog>(options);
  } catch (const std::exception& error) {
    return Error(StatusCode::kIo,
                 "cannot open the audit log " + options.file.string() + ": " + error.what());
  }
}

}  // namespace engram
