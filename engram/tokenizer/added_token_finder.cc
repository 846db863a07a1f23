#include "engram/tokenizer/added_token_finder.h"

#include <algorithm>

#include <unicode/uchar.h>

#include "engram/base/check.h"
#include "engram/tokenizer/utf8.h"

namespace engram {
namespace {

// The first or last character; `text` is not empty.
char32_t FirstCharacter(std::string_view text) { return NextCharacter(text).code_point; }

size_t LastCharacterBytes(std::string_view text) {
  size_t bytes = 1;
  while (bytes < text.size() && (static_cast<uint8_t>(text[text.size() - bytes]) & 0xC0) == 0x80) {
    ++bytes;
  }
  return bytes;
}

char32_t LastCharacter(std::string_view text) {
  return FirstCharacter(text.substr(text.size() - LastCharacterBytes(text)));
}

// \w of Unicode Technical Standard 18.
bool IsWord(char32_t character) {
  const auto c = static_cast<UChar32>(character);
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL);
}

bool IsSpace(char32_t character) { return u_isUWhiteSpace(static_cast<UChar32>(character)); }

size_t LeadingSpaceBytes(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const Utf8Step step = NextCharacter(text.substr(bytes));
    if (!IsSpace(step.code_point)) break;
    bytes += step.size;
  }
  return bytes;
}

size_t TrailingSpaceBytes(std::string_view text) {
  const size_t size = text.size();
  while (!text.empty() && IsSpace(LastCharacter(text)))
    text.remove_suffix(LastCharacterBytes(text));
  return size - text.size();
}

}  // namespace

void AddedTokenFinder::Add(std::string_view content, const AddedToken& token) {
  ENGRAM_CHECK(!content.empty());
  uint32_t node = 0;
  for (const char c : content) {
    const auto byte = static_cast<uint8_t>(c);
    const auto next = static_cast<uint32_t>(entry_of_node_.size());
    const auto [edge, is_new] = edges_.try_emplace((uint64_t{node} << 8) | byte, next);
    if (is_new) entry_of_node_.push_back(-1);
    node = edge->second;
  }
  begins_[static_cast<uint8_t>(content[0])] = true;
  if (entry_of_node_[node] >= 0) return;  // Of two with the same text the first is found.
  entry_of_node_[node] = static_cast<int32_t>(entries_.size());
  entries_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
}

AddedTokenFinder::Found AddedTokenFinder::LongestAt(std::string_view text) const {
  Found found = {0, nullptr};
  uint32_t node = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto edge = edges_.find((uint64_t{node} << 8) | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    const int32_t entry = entry_of_node_[node];
    if (entry >= 0) found = {i + 1, &entries_[static_cast<size_t>(entry)]};
  }
  return found;
}

void AddedTokenFinder::Cut(std::string_view text, std::vector<TextStretch>& stretches) const {
  size_t done = 0;  // Everything before it is in a stretch.
  for (size_t at = 0; at < text.size();) {
    if (!begins_[static_cast<uint8_t>(text[at])]) {
      ++at;
      continue;
    }
    const Found found = LongestAt(text.substr(at));
    if (found.size == 0) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + found.size;
    at = end;
    if (found.entry->single_word &&
        ((begin > 0 && IsWord(LastCharacter(text.substr(0, begin)))) ||
         (end < text.size() && IsWord(FirstCharacter(text.substr(end)))))) {
      continue;
    }
    // A token that begins with the white space that the one before it stripped is found all the
    // same.
    begin = std::max(begin, done);
    end = std::max(end, done);
    if (found.entry->lstrip) begin -= TrailingSpaceBytes(text.substr(done, begin - done));
    if (found.entry->rstrip) end += LeadingSpaceBytes(text.substr(end));
    if (done < begin) stretches.push_back({text.substr(done, begin - done), -1});
    stretches.push_back({text.substr(begin, end - begin), found.entry->id});
    done = end;
  }
  if (done < text.size()) stretches.push_back({text.substr(done), -1});
}

}  // namespace engram
