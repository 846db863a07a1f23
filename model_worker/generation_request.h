// What a caller asks of the engine, and what it gets back.
#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/hash/ngram_hasher.h"
#include "model_worker/sampling.h"

namespace engram {

// One request of one engine. Never reused.
using RequestId = StrongId<struct RequestIdTag, uint64_t>;

enum class FinishReason : uint8_t {
  kStop = 1,    // a stop id was drawn; it is not among the tokens
  kLength = 2,  // tokens_max tokens were generated
  kError = 3,   // GenerationResult::status says why; kCancelled when it was cancelled
};

// "stop", "length", "error".
[[nodiscard]] std::string_view FinishReasonName(FinishReason reason);

struct GenerationResult {
  RequestId id;
  Status status;
  FinishReason reason = FinishReason::kError;
  uint32_t prompt_tokens = 0;
  std::vector<TokenId> tokens;  // generated, without a stop id
};

struct GenerationRequest {
  std::vector<TokenId> prompt;  // at least one token
  uint32_t tokens_max = 16;     // generated at most; prompt + tokens_max must fit a sequence slot
  SamplingParams sampling;
  std::vector<TokenId> stop_ids;
  // Both run on the engine's thread and must not block. They may call Submit and Cancel.
  std::function<void(RequestId, TokenId)> on_token;   // may be empty
  std::function<void(GenerationResult)> on_finished;  // exactly once per accepted request
};

}  // namespace engram
