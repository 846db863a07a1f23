// Who changed what, and who was refused: one line of JSON each, in two files that rotate. Refusals
// have one of their own: whoever is refused often pushes out refusals, never a change.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "engram/base/status.h"
#include "engram/security/role.h"

namespace engram {

// Of each text of an entry; a longer one is cut and ends with "...".
inline constexpr size_t kAuditTextBytesMax = 512;

struct AuditEntry {
  const PeerIdentity* who = nullptr;  // null: unknown (development mode, or no certificate)
  std::string_view from;              // "host:port"
  std::string_view what;              // a method, "connect", or "GET /metrics"
  std::string_view about;             // what was asked for, such as a node's name; may be empty
  Status outcome;
};

// Where the refusals are that belong to a file of changes: audit.log, audit.refused.log.
[[nodiscard]] std::filesystem::path RefusalsBeside(const std::filesystem::path& file);

// Thread-safe.
class AuditLog {
 public:
  struct Options {
    std::filesystem::path file;      // changes; refusals go to RefusalsBeside(file)
    uint64_t bytes_max = 16u << 20;  // of each; then audit.log becomes audit.1.log, and so on
    uint32_t files_max = 8;          // of each, at least 1; older ones than these are removed
  };
  // Appends to what is there. ERRORS: kIo naming the file.
  [[nodiscard]] static Result<std::shared_ptr<AuditLog>> Open(const Options& options);
  virtual ~AuditLog() = default;

  // {"time":"2026-11-28T04:40:00.123Z","who":"ann","role":"operator","from":"10.0.0.7:51022",
  //  "what":"admin.DrainNode","about":"m0","outcome":"OK","message":""}
  // What was done, or may have been, goes among the changes; what surely was not among the
  // refusals. Written to the file before it returns. Where the file cannot be written (a full disk)
  // the process's log has the entry, and the next one is tried again; where a full file cannot give
  // way to a new one it grows on, the process's log says so, and a second later it is tried again.
  virtual void Write(const AuditEntry& entry) = 0;
};

}  // namespace engram
