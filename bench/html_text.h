// Text inside HTML.
#pragma once

#include <string>
#include <string_view>

namespace engram::bench {

// `text` for an element's contents or a quoted attribute: markup and control characters lose their
// meaning.
[[nodiscard]] inline std::string EscapeHtml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
  }
  return out;
}

}  // namespace engram::bench
