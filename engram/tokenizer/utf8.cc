#include "engram/tokenizer/utf8.h"

#include <algorithm>
#include <cstdint>

#include "engram/base/check.h"

namespace engram {
namespace {

// The bytes a character has by its first byte (0: none begins so), and what its second may be.
struct Lead {
  uint8_t size;
  uint8_t second_min;
  uint8_t second_max;
};

Lead LeadOf(uint8_t first) {
  if (first < 0x80) return {1, 0, 0};
  if (first < 0xC2) return {0, 0, 0};
  if (first < 0xE0) return {2, 0x80, 0xBF};
  if (first == 0xE0) return {3, 0xA0, 0xBF};
  if (first == 0xED) return {3, 0x80, 0x9F};  // U+D800 to U+DFFF are surrogates
  if (first < 0xF0) return {3, 0x80, 0xBF};
  if (first == 0xF0) return {4, 0x90, 0xBF};
  if (first < 0xF4) return {4, 0x80, 0xBF};
  if (first == 0xF4) return {4, 0x80, 0x8F};  // nothing above U+10FFFF
  return {0, 0, 0};
}

}  // namespace

Utf8Step NextCharacter(std::string_view text) {
  ENGRAM_CHECK(!text.empty());
  const auto byte = [text](size_t i) { return static_cast<uint8_t>(text[i]); };
  const Lead lead = LeadOf(byte(0));
  if (lead.size == 1) return {byte(0), 1, true, false};
  if (lead.size == 0) return {kReplacementCharacter, 1, false, false};
  char32_t code_point = byte(0) & (0x7FU >> lead.size);
  for (size_t i = 1; i < lead.size; ++i) {
    if (i == text.size()) return {kReplacementCharacter, i, false, true};
    const uint8_t low = i == 1 ? lead.second_min : uint8_t{0x80};
    const uint8_t high = i == 1 ? lead.second_max : uint8_t{0xBF};
    if (byte(i) < low || byte(i) > high) return {kReplacementCharacter, i, false, false};
    code_point = (code_point << 6) | (byte(i) & 0x3FU);
  }
  return {code_point, lead.size, true, false};
}

void AppendRepaired(std::string_view text, std::string& out) {
  while (!text.empty()) {
    // Well-formed stretches are copied whole.
    size_t good = 0;
    Utf8Step step{};
    while (good < text.size() && (step = NextCharacter(text.substr(good))).ok) good += step.size;
    out.append(text.substr(0, good));
    text.remove_prefix(good);
    if (text.empty()) return;
    AppendUtf8(kReplacementCharacter, out);
    text.remove_prefix(step.size);
  }
}

size_t UnfinishedBytes(std::string_view text) {
  for (size_t size = 1; size <= std::min<size_t>(3, text.size()); ++size) {
    const std::string_view tail = text.substr(text.size() - size);
    if (LeadOf(static_cast<uint8_t>(tail[0])).size < 2) continue;
    const Utf8Step step = NextCharacter(tail);
    return step.truncated && step.size == size ? size : 0;
  }
  return 0;
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto put = [&out](char32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

}  // namespace engram
