// Checks for programmer errors. They stay on in release builds. Never for bytes from outside.
#pragma once

namespace engram {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);
}  // namespace engram

#define ENGRAM_CHECK(condition)                      \
  (__builtin_expect(static_cast<bool>(condition), 1) \
       ? static_cast<void>(0)                        \
       : ::engram::CheckFailed(__FILE__, __LINE__, #condition))
