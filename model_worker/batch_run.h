// Runs a list of prompts through an engine to the end and measures it.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/engine.h"

namespace engram {

struct BatchRunOptions {
  uint32_t tokens_max = 32;       // generated per prompt
  SamplingParams sampling;        // request i draws with seed + i
  std::vector<TokenId> stop_ids;  // empty = every request generates tokens_max tokens
};

// When a request's tokens were handed out, from its Submit on. Tokens 1 to n; 0 = it had none.
struct RequestTimes {
  double first_token_s = 0.0;
  double last_token_s = 0.0;
  uint64_t tokens = 0;

  // Time to first token, the wait for a slot included; of each token after it. 0 where there is
  // none.
  [[nodiscard]] double ttft_s() const { return first_token_s; }
  [[nodiscard]] double tpot_s() const {
    return tokens < 2 ? 0.0 : (last_token_s - first_token_s) / static_cast<double>(tokens - 1);
  }
};

struct BatchRun {
  std::vector<GenerationResult> results;  // [prompts]
  std::vector<RequestTimes> times;        // [prompts]
  double wall_s = 0.0;                    // first Submit to last token
  uint64_t prompt_tokens = 0;
  uint64_t generated_tokens = 0;
  double prefill_s = 0.0;      // wall time of the steps that hold prompt tokens
  double decode_s = 0.0;       // wall time of the other steps
  uint64_t decode_tokens = 0;  // computed in those other steps

  // Generated tokens per second of the whole run, prefill included.
  [[nodiscard]] double tok_s() const;
  [[nodiscard]] double prefill_tok_s() const;
  [[nodiscard]] double decode_tok_s() const;
  // The first request that failed, if any.
  [[nodiscard]] Status FirstFailure() const;
  [[nodiscard]] std::vector<std::vector<TokenId>> token_ids() const;
};

// All prompts are queued before the first step, so that the steps are the same in every run.
// Drives the engine on this thread. Precondition: the engine is idle and not started, and its queue
// holds prompts.size() requests.
// ERRORS: what Engine::Submit gave for a prompt, with its number; requests that fail later are in
// the results.
[[nodiscard]] Result<BatchRun> RunBatch(Engine* engine,
                                        std::span<const std::vector<TokenId>> prompts,
                                        const BatchRunOptions& options);

}  // namespace engram
