#include "bench/decode_steps.h"

namespace engram::bench {

DecodeSteps::DecodeSteps(const Options& options, TokenSource* tokens)
    : options_(options),
      tokens_(tokens),
      random_(options.seed),
      sequences_(options.sequences),
      runs_(options.sequences) {
  for (uint32_t i = 0; i < options.sequences; ++i) {
    sequences_[i].place = tokens->length() * i / options.sequences;
    sequences_[i].step.resize(1 + options.drafts);
  }
}

std::span<const TokenRun> DecodeSteps::Next() {
  std::bernoulli_distribution accepts(options_.accepted);
  for (size_t s = 0; s < sequences_.size(); ++s) {
    Sequence& sequence = sequences_[s];
    const auto before = sequence.before.tokens();
    sequence.history.assign(before.begin(), before.end());
    uint32_t right = 1;
    while (right <= options_.drafts && accepts(random_)) ++right;
    for (uint32_t i = 0; i <= options_.drafts; ++i) {
      // A wrong draft is a token that stands somewhere else.
      const uint64_t place = i < right ? sequence.place + i : random_();
      sequence.step[i] = tokens_->At(place);
    }
    const std::span<const TokenId> step(sequence.step);
    runs_[s] = {.history = sequence.history, .tokens = step};
    sequence.before.Append(step.first(right));
    sequence.place += right;
    rejected_ += options_.drafts + 1 - right;
  }
  tokens_seen_ += tokens_per_step();
  return runs_;
}

}  // namespace engram::bench
