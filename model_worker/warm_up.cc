#include "model_worker/warm_up.h"

#include <algorithm>
#include <vector>

namespace engram {
namespace {

class ZeroRows final : public EngramRows {
 public:
  ZeroRows(const WarmUpRows& rows, uint32_t tokens_max)
      : token_bytes_(size_t{rows.columns} * rows.row_bytes), bytes_(tokens_max * token_bytes_) {}
  void SetTokens(uint32_t count) {
    rows_ = {std::span(bytes_).first(count * token_bytes_), {}, count};
  }

  Result<std::span<const LayerRows>> Rows(int32_t /*layer_index*/) override {
    return {{&rows_, 1}};
  }

 private:
  size_t token_bytes_;
  std::vector<std::byte> bytes_;
  LayerRows rows_;
};

// `tokens` from position 0 in as few sequences as hold them, or one in each.
std::vector<SequenceStep> StepOf(std::span<const TokenId> tokens, uint32_t sequence_tokens) {
  std::vector<SequenceStep> steps;
  for (size_t at = 0; at < tokens.size(); at += sequence_tokens) {
    SequenceStep step;
    step.slot = SequenceSlot(static_cast<uint32_t>(steps.size()));
    step.tokens = tokens.subspan(at, std::min<size_t>(sequence_tokens, tokens.size() - at));
    step.logits_wanted = true;
    steps.push_back(step);
  }
  return steps;
}

}  // namespace

Status WarmUp(Backend* backend, const std::optional<WarmUpRows>& rows) {
  const Backend::Limits& limits = backend->limits();
  uint64_t fit = uint64_t{limits.sequences_max} * limits.sequence_tokens_max;
  if (limits.kv_tokens_max != 0) {
    fit = std::min(fit, limits.kv_tokens_max / limits.kv_page_tokens * limits.kv_page_tokens);
  }
  const auto tokens_max = static_cast<uint32_t>(std::min<uint64_t>(limits.step_tokens_max, fit));
  const std::vector<TokenId> tokens(tokens_max, TokenId{0});
  std::optional<ZeroRows> zeros;
  if (rows.has_value()) zeros.emplace(*rows, tokens_max);
  // Drawn too, so that the kernel that draws is loaded. Greedily, or as little as another.
  const std::vector<TokenDraw> draws(limits.sequences_max);
  std::vector<TokenId> drawn;
  const auto compute = [&](uint32_t count, uint32_t sequence_tokens) {
    const auto steps = StepOf(std::span(tokens).first(count), sequence_tokens);
    for (const SequenceStep& step : steps) backend->ResetSlot(step.slot);
    if (zeros.has_value()) zeros->SetTokens(count);
    const StepDraws step_draws{std::span(draws).first(steps.size()), backend->vocabulary_size()};
    const Status status =
        backend->ForwardAndSample(steps, zeros.has_value() ? &*zeros : nullptr, step_draws, &drawn);
    for (const SequenceStep& step : steps) backend->ResetSlot(step.slot);
    return status.code() == StatusCode::kResourceExhausted ? Status() : status;
  };
  for (uint32_t count = tokens_max; count > 0; count /= 2) {
    ENGRAM_RETURN_IF_ERROR(compute(count, limits.sequence_tokens_max));
    if (count <= limits.sequences_max) ENGRAM_RETURN_IF_ERROR(compute(count, 1));
  }
  return {};
}

}  // namespace engram
