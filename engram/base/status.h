// Errors: one Status, one Result<T>. Every code says what the caller should do.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include <tl/expected.hpp>

namespace engram {

// Mapped one to one to proto/common.proto (ErrorCode). The per-row path carries this bare enum.
enum class StatusCode : uint8_t {
  kOk = 0,
  kInvalidArgument = 1,     // The caller's input is wrong: correct it; retrying changes nothing.
  kNotFound = 2,            // The named thing does not exist.
  kAlreadyExists = 3,       // The named thing exists; use it or choose another name.
  kFailedPrecondition = 4,  // The state does not allow this now: change the state first.
  kResourceExhausted = 5,  // A stated bound was hit: wait, or raise the bound named in the message.
  kUnavailable = 6,        // Nobody could serve this now: retry later or at a replica.
  kDeadlineExceeded = 7,   // The time given ran out; the work may still complete.
  kNotOwned = 8,           // The node does not hold this slot: fetch the shard map, ask its owner.
  kWrongModel = 9,         // The two sides would hash differently: refuse, fix the configuration.
  kWrongVersion = 10,      // The peer does not serve this table version: fetch the shard map.
  kWrongIncarnation = 11,  // The peer restarted since: drop what is known of it, connect again.
  kCorrupt = 12,           // Bytes failed their check: read a replica, report the slot.
  kPeerLost = 13,          // The connection ended: connect again, or ask a replica.
  kMalformed = 14,         // A message or file breaks its format: a bug, damage, or an attack.
  kIo = 15,                // The operating system refused a read or write; the message says why.
  kCancelled = 16,         // The caller or a shutdown cancelled it.
  kInternal = 17,          // A bug in this program: report it with the message.
  kPermissionDenied = 18,  // The peer's identity does not allow this: use a certificate that does.
};
inline constexpr int kStatusCodeCount = 19;

// The stable name of a code, such as "NOT_OWNED"; "UNKNOWN" for a value outside the enum.
[[nodiscard]] std::string_view StatusCodeName(StatusCode code);

// A code and, unless kOk, one sentence for a person that names the thing at fault and the fix.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(StatusCode code, std::string message) : code_(code), message_(std::move(message)) {}

  [[nodiscard]] bool ok() const { return code_ == StatusCode::kOk; }
  [[nodiscard]] StatusCode code() const { return code_; }
  [[nodiscard]] const std::string& message() const { return message_; }
  // "NOT_OWNED: slot 17 is not on node m2"; "OK".
  [[nodiscard]] std::string ToString() const;
  // The same code with `context` and ": " before the message.
  [[nodiscard]] Status WithContext(std::string_view context) const;

  friend bool operator==(const Status&, const Status&) = default;

 private:
  StatusCode code_ = StatusCode::kOk;
  std::string message_;
};

template <typename T>
using Result = tl::expected<T, Status>;

// `return Error(StatusCode::kNotFound, "...")` from a function that gives a Result<T>.
[[nodiscard]] inline tl::unexpected<Status> Error(StatusCode code, std::string message) {
  return tl::unexpected<Status>(Status(code, std::move(message)));
}
[[nodiscard]] inline tl::unexpected<Status> Error(Status status) {
  return tl::unexpected<Status>(std::move(status));
}

}  // namespace engram

#define ENGRAM_CONCAT_INNER(a, b) a##b
#define ENGRAM_CONCAT(a, b) ENGRAM_CONCAT_INNER(a, b)

// Leaves a function that returns Status when `expr` is not ok.
#define ENGRAM_RETURN_IF_ERROR(expr)                                      \
  do {                                                                    \
    if (::engram::Status engram_status_ = (expr); !engram_status_.ok()) { \
      return engram_status_;                                              \
    }                                                                     \
  } while (false)

// The same in a function that returns Result<T>.
#define ENGRAM_TRY(expr)                                                  \
  do {                                                                    \
    if (::engram::Status engram_status_ = (expr); !engram_status_.ok()) { \
      return ::engram::Error(std::move(engram_status_));                  \
    }                                                                     \
  } while (false)

// `ENGRAM_ASSIGN_OR_RETURN(auto x, MakeX());` in a function that returns Result<T>.
#define ENGRAM_ASSIGN_OR_RETURN(lhs, expr) \
  ENGRAM_ASSIGN_OR_RETURN_INNER(ENGRAM_CONCAT(engram_result_, __LINE__), lhs, expr)
#define ENGRAM_ASSIGN_OR_RETURN_INNER(tmp, lhs, expr)                   \
  auto tmp = (expr);                                                    \
  if (!tmp.has_value()) return ::engram::Error(std::move(tmp).error()); \
  lhs = *std::move(tmp)
