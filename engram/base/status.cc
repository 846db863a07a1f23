#include "engram/base/status.h"

#include <array>

namespace engram {

std::string_view StatusCodeName(StatusCode code) {
  static constexpr std::array<std::string_view, kStatusCodeCount> kNames = {"OK",
                                                                            "INVALID_ARGUMENT",
                                                                            "NOT_FOUND",
                                                                            "ALREADY_EXISTS",
                                                                            "FAILED_PRECONDITION",
                                                                            "RESOURCE_EXHAUSTED",
                                                                            "UNAVAILABLE",
                                                                            "DEADLINE_EXCEEDED",
                                                                            "NOT_OWNED",
                                                                            "WRONG_MODEL",
                                                                            "WRONG_VERSION",
                                                                            "WRONG_INCARNATION",
                                                                            "CORRUPT",
                                                                            "PEER_LOST",
                                                                            "MALFORMED",
                                                                            "IO",
                                                                            "CANCELLED",
                                                                            "INTERNAL",
                                                                            "PERMISSION_DENIED"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

std::string Status::ToString() const {
  std::string text(StatusCodeName(code_));
  if (!message_.empty()) text.append(": ").append(message_);
  return text;
}

Status Status::WithContext(std::string_view context) const {
  if (ok()) return *this;
  return Status(code_, std::string(context) + ": " + message_);
}

}  // namespace engram
