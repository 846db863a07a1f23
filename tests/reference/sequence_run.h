// Drives a backend through whole sequences, in any schedule. For tests.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"
#include "tests/reference/tiny_model.h"

namespace engram::test {

struct Prompt {
  std::vector<TokenId> ids;
  std::vector<uint8_t> dead;  // empty = none
};

// Random tokens; where `dead_runs`, some runs of them are dead.
[[nodiscard]] Prompt RandomPrompt(const TinyModelShape& shape, uint32_t tokens, bool dead_runs,
                                  uint32_t seed);

struct Schedule {
  uint32_t chunk_tokens = 1;  // tokens of each sequence in one step, the rest in the last
  bool together = false;      // all sequences share the steps; else one after the other
  bool engram = true;
  bool only_ids = false;  // row ids in place of rows
  // Has each step's rows come to the backend another way; null = as they are.
  std::function<EngramRows*(EngramRows* rows)> through{};
};

// Logits by [prompt][position]; empty where the schedule did not ask (not the last of a chunk).
using Logits = std::vector<std::vector<std::vector<float>>>;

// Runs prompt i in slot i. Fails the calling test on an error. On a rank other than 0 of several
// all logits stay empty.
[[nodiscard]] Logits RunSequences(Backend* backend, const TinyModel& model,
                                  const std::vector<Prompt>& prompts, const Schedule& schedule);

// `collective` null: one rank; else the rank's part.
[[nodiscard]] std::unique_ptr<Backend> OpenBackend(const TinyModel& model, uint32_t threads,
                                                   const Backend::Limits& limits,
                                                   Collective* collective = nullptr);

}  // namespace engram::test
