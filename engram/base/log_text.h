// Text of a peer, as a line of a log can carry it.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engram {

inline constexpr size_t kLogTextBytesMax = 512;

// `text` without control characters ('?' stands for them: a new line would forge an entry), at most
// kLogTextBytesMax bytes of it, and "..." where that is not all.
[[nodiscard]] inline std::string LogText(std::string_view text) {
  std::string shown(text.substr(0, kLogTextBytesMax));
  for (char& c : shown) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kLogTextBytesMax) shown += "...";
  return shown;
}

}  // namespace engram
