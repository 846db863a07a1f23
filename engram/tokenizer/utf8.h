// UTF-8 from outside: repaired, or held back until a character is whole.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace engram {

inline constexpr char32_t kReplacementCharacter = 0xFFFD;

struct Utf8Step {
  char32_t code_point;  // kReplacementCharacter where not ok
  size_t size;          // bytes taken, >= 1
  bool ok;              // false: `size` bytes are one maximal ill-formed subpart
  bool truncated;       // not ok only because the text ends here
};

// The first character of `text`. Ill-formed bytes are taken in maximal subparts (Unicode 15,
// section 3.9, table 3-8), as Python's errors="replace" and Rust's from_utf8_lossy take them.
// Precondition: !text.empty().
[[nodiscard]] Utf8Step NextCharacter(std::string_view text);

// Appends `text` to `out` with every ill-formed subpart as one U+FFFD.
void AppendRepaired(std::string_view text, std::string& out);

// The number of bytes at the end of `text` that begin a character and may yet be completed: 0 to 3.
[[nodiscard]] size_t UnfinishedBytes(std::string_view text);

// Appends `code_point`, which is a Unicode scalar value.
void AppendUtf8(char32_t code_point, std::string& out);

}  // namespace engram
