// Normalises text and cuts it into the pieces that BPE works on: the pre-tokenizer. The only place
// that holds ICU regular expressions.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/tokenizer/tokenizer_definition.h"

namespace engram {

// Immutable after Create; thread-safe.
class TextSplitter {
 public:
  // ERRORS: kInvalidArgument naming a pattern that ICU cannot read.
  [[nodiscard]] static Result<TextSplitter> Create(const std::vector<NormalForm>& normal_forms,
                                                   const std::vector<SplitStep>& steps);
  TextSplitter(TextSplitter&&) noexcept;
  TextSplitter& operator=(TextSplitter&&) noexcept;
  ~TextSplitter();

  // `text` is UTF-8, well-formed.
  [[nodiscard]] std::string Normalise(std::string_view text) const;

  // The pieces of `text`, in order, none empty; `storage` holds the text that they point into.
  // A pattern that would backtrack beyond bounds (kMatchStackBytesMax, kMatchTimeMax) stops cutting
  // there: the rest stays one piece of that step.
  [[nodiscard]] std::vector<std::string_view> Split(std::string_view text,
                                                    std::string& storage) const;

 private:
  struct Impl;
  explicit TextSplitter(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace engram
