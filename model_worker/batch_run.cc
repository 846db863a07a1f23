#include "model_worker/batch_run.h"

#include <chrono>
#include <utility>

#include "engram/base/clock.h"

namespace engram {
namespace {

double PerSecond(uint64_t tokens, double seconds) {
  return seconds > 0.0 ? static_cast<double>(tokens) / seconds : 0.0;
}

}  // namespace

double BatchRun::tok_s() const { return PerSecond(generated_tokens, wall_s); }
double BatchRun::prefill_tok_s() const { return PerSecond(prompt_tokens, prefill_s); }
double BatchRun::decode_tok_s() const { return PerSecond(decode_tokens, decode_s); }

Status BatchRun::FirstFailure() const {
  for (size_t i = 0; i < results.size(); ++i) {
    if (!results[i].status.ok()) {
      return results[i].status.WithContext("prompt " + std::to_string(i + 1));
    }
  }
  return {};
}

std::vector<std::vector<TokenId>> BatchRun::token_ids() const {
  std::vector<std::vector<TokenId>> ids;
  for (const GenerationResult& result : results) ids.push_back(result.tokens);
  return ids;
}

Result<BatchRun> RunBatch(Engine* engine, std::span<const std::vector<TokenId>> prompts,
                          const BatchRunOptions& options) {
  BatchRun run;
  run.results.resize(prompts.size());
  run.times.resize(prompts.size());
  const EngineStats before = engine->Stats();
  const MonotonicTime start = SteadyClock().Now();
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerationRequest request;
    request.prompt = prompts[i];
    request.tokens_max = options.tokens_max;
    request.sampling = options.sampling;
    request.sampling.seed = options.sampling.seed + i;
    request.stop_ids = options.stop_ids;
    request.on_token = [&run, i, submitted = SteadyClock().Now()](RequestId, TokenId) {
      RequestTimes& times = run.times[i];
      times.last_token_s = std::chrono::duration<double>(SteadyClock().Now() - submitted).count();
      if (times.tokens++ == 0) times.first_token_s = times.last_token_s;
    };
    request.on_finished = [&run, i](GenerationResult result) {
      run.results[i] = std::move(result);
    };
    const auto id = engine->Submit(std::move(request));
    if (!id.has_value()) {
      // What was queued must not outlive `run`.
      engine->Stop();
      return Error(id.error().WithContext("prompt " + std::to_string(i + 1)));
    }
  }
  engine->RunUntilIdle();
  run.wall_s = std::chrono::duration<double>(SteadyClock().Now() - start).count();
  const EngineStats after = engine->Stats();
  for (const GenerationResult& result : run.results) {
    run.prompt_tokens += result.prompt_tokens;
    run.generated_tokens += result.tokens.size();
  }
  run.prefill_s = static_cast<double>(after.prefill_step_ns - before.prefill_step_ns) * 1e-9;
  run.decode_s = static_cast<double>(after.decode_step_ns - before.decode_step_ns) * 1e-9;
  run.decode_tokens = after.decode_step_tokens - before.decode_step_tokens;
  return run;
}

}  // namespace engram
