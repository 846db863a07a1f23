// Byte-level BPE writes each byte as one printable character, so that a token string is text:
// the printable ones of Latin-1 stand for themselves, the others are U+0100 and up, in order.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace engram {

class ByteAlphabet {
 public:
  ByteAlphabet();

  // The UTF-8 of the character that stands for `byte`.
  [[nodiscard]] const std::string& Spelling(uint8_t byte) const { return spellings_[byte]; }
  // The bytes that `token` spells; nothing where a character of it is not of the alphabet.
  [[nodiscard]] std::optional<std::string> Bytes(std::string_view token) const;

 private:
  static constexpr char32_t kCharacterEnd = 0x100 + 68;  // 68 bytes are not printable
  std::array<std::string, 256> spellings_;
  std::array<int16_t, kCharacterEnd> bytes_;  // -1: not of the alphabet
};

}  // namespace engram
