#include "engram/tokenizer/text_splitter.h"

#include <cstdint>
#include <utility>

#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/unistr.h>

#include "engram/base/check.h"

namespace engram {
namespace {

// Bounds on one search for a match. ICU counts time in units of 10,000 backtracking states, so the
// bound is the same on every machine.
constexpr int32_t kMatchStackBytesMax = 8 << 20;
constexpr int32_t kMatchTimeMax = 500;

// Half-open, in UTF-16 units of the text.
struct Range {
  int32_t begin;
  int32_t end;
};

struct CompiledStep {
  SplitStep::Kind kind;
  std::unique_ptr<const icu::RegexPattern> pattern;  // null for kAddPrefixSpace
};

const icu::Normalizer2& Normalizer(NormalForm form) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* normalizer = nullptr;
  switch (form) {
    case NormalForm::kNfc:
      normalizer = icu::Normalizer2::getNFCInstance(error);
      break;
    case NormalForm::kNfd:
      normalizer = icu::Normalizer2::getNFDInstance(error);
      break;
    case NormalForm::kNfkc:
      normalizer = icu::Normalizer2::getNFKCInstance(error);
      break;
    case NormalForm::kNfkd:
      normalizer = icu::Normalizer2::getNFKDInstance(error);
      break;
  }
  ENGRAM_CHECK(normalizer != nullptr && U_SUCCESS(error));
  return *normalizer;
}

// Cuts each range at the matches of one step's pattern.
class Cutter {
 public:
  Cutter(const CompiledStep& step, const icu::UnicodeString& text) : kind_(step.kind) {
    UErrorCode error = U_ZERO_ERROR;
    matcher_.reset(step.pattern->matcher(text, error));
    ENGRAM_CHECK(U_SUCCESS(error));
    matcher_->setStackLimit(kMatchStackBytesMax, error);
    matcher_->setTimeLimit(kMatchTimeMax, error);
    ENGRAM_CHECK(U_SUCCESS(error));
  }

  void Cut(Range range, std::vector<Range>& out) {
    UErrorCode error = U_ZERO_ERROR;
    matcher_->region(range.begin, range.end, error);
    int32_t done = range.begin;
    while (U_SUCCESS(error) && matcher_->find(error) && U_SUCCESS(error)) {
      const Range match = {matcher_->start(error), matcher_->end(error)};
      Keep({done, match.begin}, false, out);
      Keep(match, true, out);
      done = match.end;
    }
    Keep({done, range.end}, false, out);
  }

 private:
  void Keep(Range range, bool is_match, std::vector<Range>& out) const {
    const auto unwanted =
        is_match ? SplitStep::Kind::kRemoveMatches : SplitStep::Kind::kKeepMatches;
    if (range.begin < range.end && kind_ != unwanted) out.push_back(range);
  }

  SplitStep::Kind kind_;
  std::unique_ptr<icu::RegexMatcher> matcher_;
};

// Puts a space before every piece that does not begin with one.
void AddPrefixSpaces(icu::UnicodeString& text, std::vector<Range>& ranges) {
  icu::UnicodeString out;
  for (Range& range : ranges) {
    const int32_t begin = out.length();
    if (text.charAt(range.begin) != u' ') out.append(u' ');
    out.append(text, range.begin, range.end - range.begin);
    range = {begin, out.length()};
  }
  text = std::move(out);
}

// The UTF-8 bytes that a stretch of well-formed UTF-16 takes.
size_t Utf8Bytes(const char16_t* units, int32_t begin, int32_t end) {
  size_t bytes = 0;
  for (int32_t i = begin; i < end; ++i) {
    const char16_t unit = units[i];
    const bool surrogate = (unit & 0xF800) == 0xD800;  // Half of a character of four bytes.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || surrogate ? 2 : 3;
  }
  return bytes;
}

}  // namespace

struct TextSplitter::Impl {
  std::vector<NormalForm> normal_forms;
  std::vector<CompiledStep> steps;
};

TextSplitter::TextSplitter(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
TextSplitter::TextSplitter(TextSplitter&&) noexcept = default;
TextSplitter& TextSplitter::operator=(TextSplitter&&) noexcept = default;
TextSplitter::~TextSplitter() = default;

Result<TextSplitter> TextSplitter::Create(const std::vector<NormalForm>& normal_forms,
                                          const std::vector<SplitStep>& steps) {
  auto impl = std::make_unique<Impl>();
  impl->normal_forms = normal_forms;
  for (const SplitStep& step : steps) {
    CompiledStep compiled{step.kind, nullptr};
    if (step.kind != SplitStep::Kind::kAddPrefixSpace) {
      UErrorCode error = U_ZERO_ERROR;
      UParseError place{};
      const uint32_t flags = step.literal ? uint32_t{UREGEX_LITERAL} : 0;
      compiled.pattern.reset(icu::RegexPattern::compile(icu::UnicodeString::fromUTF8(step.pattern),
                                                        flags, place, error));
      if (U_FAILURE(error)) {
        return Error(StatusCode::kInvalidArgument,
                     "pre_tokenizer Split pattern is not a regular expression that ICU reads (" +
                         std::string(u_errorName(error)) + " at character " +
                         std::to_string(place.offset) + "): " + step.pattern.substr(0, 80));
      }
    }
    impl->steps.push_back(std::move(compiled));
  }
  return TextSplitter(std::move(impl));
}

std::string TextSplitter::Normalise(std::string_view text) const {
  if (impl_->normal_forms.empty()) return std::string(text);
  icu::UnicodeString current = icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  for (const NormalForm form : impl_->normal_forms) {
    UErrorCode error = U_ZERO_ERROR;
    current = Normalizer(form).normalize(current, error);
    ENGRAM_CHECK(U_SUCCESS(error));
  }
  std::string out;
  return current.toUTF8String(out);
}

std::vector<std::string_view> TextSplitter::Split(std::string_view text,
                                                  std::string& storage) const {
  icu::UnicodeString units = icu::UnicodeString::fromUTF8(
      icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
  std::vector<Range> ranges;
  if (units.length() > 0) ranges.push_back({0, units.length()});
  for (const CompiledStep& step : impl_->steps) {
    if (step.pattern == nullptr) {
      AddPrefixSpaces(units, ranges);
      continue;
    }
    std::vector<Range> finer;
    finer.reserve(2 * ranges.size());
    Cutter cutter(step, units);
    for (const Range range : ranges) cutter.Cut(range, finer);
    ranges = std::move(finer);
  }

  storage.clear();
  units.toUTF8String(storage);
  std::vector<std::string_view> pieces;
  pieces.reserve(ranges.size());
  int32_t unit = 0;
  size_t byte = 0;
  for (const Range range : ranges) {
    byte += Utf8Bytes(units.getBuffer(), unit, range.begin);
    const size_t bytes = Utf8Bytes(units.getBuffer(), range.begin, range.end);
    pieces.push_back(std::string_view(storage).substr(byte, bytes));
    byte += bytes;
    unit = range.end;
  }
  return pieces;
}

}  // namespace engram
