#include "model_worker/sampling.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <string>

#include "engram/base/check.h"

namespace engram {
namespace {

uint64_t Mix64(uint64_t z) {
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Independent lanes: a single running maximum would wait for itself at every element.
float HighestOf(std::span<const float> logits) {
  constexpr size_t kLanes = 16;
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, -std::numeric_limits<float>::infinity());
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float value = logits[i + lane];
      lanes[lane] = value > lanes[lane] ? value : lanes[lane];
    }
  }
  for (; i < logits.size(); ++i) lanes[0] = logits[i] > lanes[0] ? logits[i] : lanes[0];
  return *std::max_element(lanes, lanes + kLanes);
}

struct Highest {
  float logit = -std::numeric_limits<float>::infinity();
  size_t begin = 0;  // of the block with the first of them
};

// In blocks that stay in the cache, so that a greedy pick looks through one of them again and not
// through a vocabulary of 150,000.
constexpr size_t kBlockLogits = 4096;
Highest HighestLogit(std::span<const float> logits) {
  Highest highest;
  for (size_t begin = 0; begin < logits.size(); begin += kBlockLogits) {
    const float logit =
        HighestOf(logits.subspan(begin, std::min(kBlockLogits, logits.size() - begin)));
    if (logit > highest.logit) highest = {logit, begin};
  }
  return highest;
}

}  // namespace

Status ValidateSamplingParams(const SamplingParams& params) {
  if (!(params.temperature >= 0.0f && params.temperature <= 100.0f)) {
    return {StatusCode::kInvalidArgument,
            "temperature is " + std::to_string(params.temperature) + "; it must be 0 to 100"};
  }
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f)) {
    return {StatusCode::kInvalidArgument,
            "top_p is " + std::to_string(params.top_p) + "; it must be above 0 and at most 1"};
  }
  return {};
}

double UniformDraw(uint64_t seed, uint64_t counter) {
  const uint64_t bits =
      Mix64(Mix64(seed + 0x9e3779b97f4a7c15ull) + (counter + 1) * 0x9e3779b97f4a7c15ull);
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

// The nucleus lies within the tokens whose probability is at least (1 - top_p) / count, because all
// the others together have less than 1 - top_p: so only those are sorted.
void Sampler::KeepTopP(double top_p, double* total) {
  const double floor =
      *total * (1.0 - top_p) / static_cast<double>(candidates_.size()) * (1.0 - 1e-9);
  std::erase_if(candidates_, [floor](const Candidate& c) { return c.weight < floor; });
  std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  });
  double mass = 0.0;
  size_t kept = 0;
  while (kept < candidates_.size() && (kept == 0 || mass < top_p * *total)) {
    mass += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
  SortById();
  *total = mass;
}

void Sampler::SortById() {
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return a.id < b.id; });
}

TokenId Sampler::Sample(std::span<const float> logits, const TokenDraw& draw) {
  const SamplingParams& params = draw.params;
  ENGRAM_CHECK(!logits.empty());
  const auto [highest, block] = HighestLogit(logits);
  if (!std::isfinite(highest)) return kNoToken;
  if (params.temperature == 0.0f || params.top_k == 1) {
    return static_cast<TokenId>(
        std::find(logits.begin() + static_cast<std::ptrdiff_t>(block), logits.end(), highest) -
        logits.begin());
  }
  candidates_.clear();
  candidates_.reserve(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isfinite(logits[i])) {
      candidates_.push_back({logits[i], static_cast<TokenId>(i), 0.0});
    }
  }
  if (params.top_k > 0 && params.top_k < candidates_.size()) {
    std::nth_element(candidates_.begin(), candidates_.begin() + params.top_k, candidates_.end(),
                     [](const Candidate& a, const Candidate& b) {
                       return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
                     });
    candidates_.resize(params.top_k);
    SortById();
  }
  double total = 0.0;
  for (Candidate& c : candidates_) {
    c.weight = std::exp((static_cast<double>(c.logit) - highest) / params.temperature);
    total += c.weight;
  }
  if (params.top_p < 1.0f) KeepTopP(params.top_p, &total);
  const double target = UniformDraw(params.seed, draw.counter) * total;
  double mass = 0.0;
  for (const Candidate& c : candidates_) {
    mass += c.weight;
    if (target < mass) return c.id;
  }
  // Rounding left the target at the very end.
  return candidates_.back().id;
}

}  // namespace engram
