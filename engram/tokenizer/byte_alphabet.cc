#include "engram/tokenizer/byte_alphabet.h"

#include "engram/base/check.h"
#include "engram/tokenizer/utf8.h"

namespace engram {

ByteAlphabet::ByteAlphabet() {
  bytes_.fill(-1);
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const char32_t character = printable ? static_cast<char32_t>(byte) : next++;
    bytes_[character] = static_cast<int16_t>(byte);
    AppendUtf8(character, spellings_[static_cast<size_t>(byte)]);
  }
  ENGRAM_CHECK(next == kCharacterEnd);
}

std::optional<std::string> ByteAlphabet::Bytes(std::string_view token) const {
  std::string bytes;
  while (!token.empty()) {
    const Utf8Step step = NextCharacter(token);
    if (!step.ok || step.code_point >= kCharacterEnd || bytes_[step.code_point] < 0) {
      return std::nullopt;
    }
    bytes.push_back(static_cast<char>(bytes_[step.code_point]));
    token.remove_prefix(step.size);
  }
  return bytes;
}

}  // namespace engram
