// Logits -> the next token: greedy, or seeded sampling with temperature, top-k and top-p.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"

namespace engram {

struct SamplingParams {
  float temperature = 0.0f;  // 0 = greedy: the highest logit, the lowest id among equals
  uint32_t top_k = 0;        // only the k likeliest tokens; 0 = all
  float top_p = 1.0f;        // only the likeliest tokens that together reach this probability
  uint64_t seed = 0;
};

// ERRORS: kInvalidArgument naming the field, what was found and what is allowed.
[[nodiscard]] Status ValidateSamplingParams(const SamplingParams& params);

// A number in [0, 1) that depends on `seed` and `counter` alone, so that a request's draws do not
// depend on its batch mates: SplitMix64's output function over a mixed seed and the counter.
[[nodiscard]] double UniformDraw(uint64_t seed, uint64_t counter);

// One token to draw.
struct TokenDraw {
  SamplingParams params;
  uint64_t counter = 0;  // how many tokens this request has generated so far
};
// The tokens to draw after a step.
struct StepDraws {
  std::span<const TokenDraw> draws;
  int32_t vocabulary_size = 0;  // only ids below it are drawn
};
// Drawn where no logit is a finite number: the backend computed garbage.
inline constexpr TokenId kNoToken = -1;

// Keeps its scratch memory between calls. Thread-compatible.
class Sampler {
 public:
  // The next token, or kNoToken.
  //   logits   [vocabulary] fp32; what is no finite number forbids a token
  // Order of the rules: temperature, top-k, top-p over what top-k left; then a token is drawn in
  // the order of ids. Equal logits rank by id.
  // Precondition: ValidateSamplingParams(draw.params).ok(), logits not empty.
  [[nodiscard]] TokenId Sample(std::span<const float> logits, const TokenDraw& draw);

 private:
  struct Candidate {
    float logit;
    TokenId id;
    double weight;
  };
  void KeepTopP(double top_p, double* total);
  void SortById();

  std::vector<Candidate> candidates_;
};

}  // namespace engram
