#include "model_worker/backend.h"

#include "engram/base/check.h"

namespace engram {

Status Backend::ForwardAndSample(std::span<const SequenceStep> steps, EngramRows* engram,
                                 const StepDraws& draws, std::vector<TokenId>* tokens) {
  ENGRAM_RETURN_IF_ERROR(Forward(steps, engram, &logits_));
  const auto vocabulary = static_cast<size_t>(vocabulary_size());
  ENGRAM_CHECK(logits_.size() >= draws.draws.size() * vocabulary);
  tokens->clear();
  for (const TokenDraw& draw : draws.draws) {
    const auto logits = std::span<const float>(logits_).subspan(
        tokens->size() * vocabulary, static_cast<size_t>(draws.vocabulary_size));
    tokens->push_back(sampler_.Sample(logits, draw));
  }
  return {};
}

}  // namespace engram
