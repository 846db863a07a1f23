#include "engram/security/audit_log.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <mutex>
#include <system_error>
#include <utility>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engram/base/check.h"
#include "engram/base/clock.h"

namespace engram {
namespace {

constexpr std::chrono::seconds kRotateAgain{1};

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

// A line is a few kB at most, whatever was asked for.
std::string Cut(std::string_view text) {
  std::string cut(text.substr(0, kAuditTextBytesMax));
  if (cut.size() < text.size()) cut += "...";
  return cut;
}

std::string Line(const AuditEntry& entry) {
  const nlohmann::ordered_json line = {
      {"time", TimeText()},
      {"who", entry.who == nullptr ? "" : Cut(entry.who->name)},
      {"role", entry.who == nullptr ? "" : std::string(RoleName(entry.who->role))},
      {"from", entry.from},
      {"what", Cut(entry.what)},
      {"about", Cut(entry.about)},
      {"outcome", StatusCodeName(entry.outcome.code())},
      {"message", Cut(entry.outcome.message())}};
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

std::filesystem::path Numbered(const std::filesystem::path& file, uint32_t number) {
  std::filesystem::path numbered = file;
  numbered.replace_extension();
  numbered += "." + std::to_string(number);
  numbered += file.extension();
  return numbered;
}

Status IoFailure(const std::string& what, int error) {
  return {StatusCode::kIo, what + ": " + std::generic_category().message(error)};
}

// What is open is written to until another is: whatever fails, no line that was written is lost,
// and nothing ends. Thread-safe.
class AuditFile {
 public:
  static Result<std::unique_ptr<AuditFile>> Open(const std::filesystem::path& file,
                                                 const AuditLog::Options& options) {
    std::error_code ignored;  // Reopen says what is wrong
    std::filesystem::create_directories(file.parent_path(), ignored);
    std::unique_ptr<AuditFile> opened(new AuditFile(file, options));
    ENGRAM_TRY(opened->Reopen());
    return opened;
  }
  ~AuditFile() { (void)::close(fd_); }
  AuditFile(const AuditFile&) = delete;
  AuditFile& operator=(const AuditFile&) = delete;

  void Write(const std::string& line) {
    const std::lock_guard lock(mutex_);
    if (bytes_ > 0 && bytes_ + line.size() + 1 > options_.bytes_max) Rotate();
    // After a line that a full disk cut short.
    const std::string text = (torn_ ? "\n" : "") + line + "\n";
    size_t written = 0;
    while (written < text.size()) {
      const ssize_t count = ::write(fd_, text.data() + written, text.size() - written);
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) {
        const Status status = IoFailure(file_.string(), errno);
        spdlog::error("cannot write the audit log {}: {}", status.message(), line);
        break;
      }
      written += static_cast<size_t>(count);
    }
    bytes_ += written;
    if (written > 0) torn_ = written < text.size();
  }

 private:
  AuditFile(std::filesystem::path file, const AuditLog::Options& options)
      : file_(std::move(file)), options_(options) {}

  // Opens what has the name now, or makes it. On an error what was open stays.
  Status Reopen() {
    const int fd = ::open(file_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0) return IoFailure(file_.string(), errno);
    if (fd_ >= 0) (void)::close(fd_);
    fd_ = fd;
    struct stat about {};
    bytes_ = ::fstat(fd_, &about) == 0 ? static_cast<uint64_t>(about.st_size) : 0;
    torn_ = false;
    return {};
  }
  // Gives the name of the `number`th older file free. Where an earlier try moved some of them and
  // failed then, the others stay where they are.
  Status MakeRoom(uint32_t number) {
    const std::filesystem::path name = Numbered(file_, number);
    struct stat about {};
    if (number >= options_.files_max || ::lstat(name.c_str(), &about) != 0) return {};
    ENGRAM_RETURN_IF_ERROR(MakeRoom(number + 1));
    if (::rename(name.c_str(), Numbered(file_, number + 1).c_str()) == 0) return {};
    return IoFailure("cannot rename " + name.string(), errno);
  }
  Status TryRotate() {
    ENGRAM_RETURN_IF_ERROR(MakeRoom(1));
    const std::filesystem::path older = Numbered(file_, 1);
    const bool moved = ::rename(file_.c_str(), older.c_str()) == 0;
    // Where somebody has removed the file there is nothing to move.
    if (!moved && errno != ENOENT) return IoFailure("cannot rename " + file_.string(), errno);
    Status status = Reopen();
    if (!status.ok() && moved) (void)::rename(older.c_str(), file_.c_str());
    return status;
  }
  void Rotate() {
    const MonotonicTime now = SteadyClock().Now();
    if (now < rotate_again_) return;
    const Status status = TryRotate();
    if (status.ok()) return;
    rotate_again_ = now + kRotateAgain;
    spdlog::error(
        "the audit log {} is full and cannot give way to a new one; it is written on, and tried "
        "again: {}",
        file_.string(), status.message());
  }

  const std::filesystem::path file_;
  const AuditLog::Options options_;
  std::mutex mutex_;
  int fd_ = -1;         // guarded by mutex_, as all that follows
  uint64_t bytes_ = 0;  // in the file
  bool torn_ = false;   // its last line is not whole
  MonotonicTime rotate_again_{};
};

class RotatingAuditLog final : public AuditLog {
 public:
  RotatingAuditLog(std::unique_ptr<AuditFile> changes, std::unique_ptr<AuditFile> refusals)
      : changes_(std::move(changes)), refusals_(std::move(refusals)) {}

  void Write(const AuditEntry& entry) override {
    (ChangedNothing(entry.outcome.code()) ? refusals_ : changes_)->Write(Line(entry));
  }

 private:
  const std::unique_ptr<AuditFile> changes_;
  const std::unique_ptr<AuditFile> refusals_;
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
  ENGRAM_CHECK(options.files_max >= 1);
  const auto open = [&](const std::filesystem::path& file) {
    auto opened = AuditFile::Open(file, options);
    if (!opened.has_value()) {
      opened = Error(opened.error().WithContext("cannot open the audit log"));
    }
    return opened;
  };
  ENGRAM_ASSIGN_OR_RETURN(auto changes, open(options.file));
  ENGRAM_ASSIGN_OR_RETURN(auto refusals, open(RefusalsBeside(options.file)));
  return std::make_shared<RotatingAuditLog>(std::move(changes), std::move(refusals));
}

}  // namespace engram
