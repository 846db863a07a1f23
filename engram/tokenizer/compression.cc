// Token compression, docs/formats/tokenizer.md.
#include <string>
#include <unordered_map>

#include <unicode/normalizer2.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include "engram/base/check.h"
#include "engram/tokenizer/tokenizer.h"
#include "engram/tokenizer/utf8.h"

namespace engram {
namespace {

// Stands for a lone space while the ends are stripped.
constexpr UChar32 kLoneSpace = 0xE000;

icu::UnicodeString Normalised(const icu::Normalizer2* form, const icu::UnicodeString& text,
                              UErrorCode& error) {
  return U_SUCCESS(error) ? form->normalize(text, error) : text;
}

bool IsFoldedSpace(UChar32 c) { return c == ' ' || c == '\t' || c == '\r' || c == '\n'; }

// Marks dropped, lowercase, runs of white space as one space. Each character is lowered for itself,
// as Hugging Face does: no final sigma. U+0130, the one character that lowers to two, is gone after
// NFD, so the simple mapping is the full one.
icu::UnicodeString Folded(const icu::UnicodeString& text) {
  icu::UnicodeString out;
  for (int32_t i = 0; i < text.length(); i = text.moveIndex32(i, 1)) {
    const UChar32 c = text.char32At(i);
    if ((U_GET_GC_MASK(c) & U_GC_M_MASK) != 0) continue;
    const UChar32 lower = u_tolower(c);
    if (!IsFoldedSpace(lower)) {
      out.append(lower);
    } else if (out.isEmpty() || out[out.length() - 1] != u' ') {
      out.append(u' ');
    }
  }
  return out;
}

icu::UnicodeString Stripped(const icu::UnicodeString& text) {
  int32_t begin = 0;
  int32_t end = text.length();
  while (begin < end && u_isUWhiteSpace(text.char32At(begin))) begin = text.moveIndex32(begin, 1);
  while (end > begin && u_isUWhiteSpace(text.char32At(end - 1))) end = text.moveIndex32(end, -1);
  return icu::UnicodeString(text, begin, end - begin);
}

}  // namespace

std::string NormaliseForCompression(std::string_view utf8) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfkc = icu::Normalizer2::getNFKCInstance(error);
  const icu::Normalizer2* nfd = icu::Normalizer2::getNFDInstance(error);
  icu::UnicodeString text = icu::UnicodeString::fromUTF8(
      icu::StringPiece(utf8.data(), static_cast<int32_t>(utf8.size())));
  text = Folded(Normalised(nfd, Normalised(nfkc, text, error), error));
  ENGRAM_CHECK(U_SUCCESS(error));
  if (text == icu::UnicodeString(u' ')) text = icu::UnicodeString(kLoneSpace);
  text = Stripped(text);
  text.findAndReplace(icu::UnicodeString(kLoneSpace), icu::UnicodeString(u' '));
  std::string out;
  return text.toUTF8String(out);
}

Result<TokenCompression> CompressVocabulary(const Tokenizer& tokenizer) {
  const int32_t size = tokenizer.vocabulary_size();
  if (size == 0) return Error(StatusCode::kInvalidArgument, "the tokenizer has no tokens");
  TokenCompression out;
  out.table.reserve(static_cast<size_t>(size));
  std::unordered_map<std::string, int32_t> ids;
  ids.reserve(static_cast<size_t>(size));
  std::string replacement;
  AppendUtf8(kReplacementCharacter, replacement);
  for (TokenId token = 0; token < size; ++token) {
    std::string text;
    AppendRepaired(tokenizer.TokenBytes(token), text);
    std::string key;
    if (text.find(replacement) != std::string::npos) {
      key = tokenizer.TokenString(token);
    } else {
      key = NormaliseForCompression(text);
      if (key.empty()) key = text;
    }
    const auto next = static_cast<int32_t>(ids.size());
    out.table.push_back(ids.try_emplace(std::move(key), next).first->second);
  }
  out.compressed_vocab_size = static_cast<int64_t>(ids.size());
  return out;
}

}  // namespace engram
