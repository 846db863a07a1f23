#include "tests/reference/sequence_run.h"

#include <algorithm>
#include <random>

#include <gtest/gtest.h>

#include "engram/base/check.h"
#include "model_worker/cpu/cpu_backend.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram::test {
namespace {

// One step of the sequences `which`, each from its place in `next`.
void RunStep(Backend* backend, const TinyModel& model, const std::vector<Prompt>& prompts,
             const std::vector<size_t>& which, const Schedule& schedule,
             std::vector<uint32_t>* next, Logits* out) {
  std::vector<SequenceStep> steps;
  std::vector<TokenRun> runs;
  for (const size_t p : which) {
    const Prompt& prompt = prompts[p];
    const uint32_t begin = (*next)[p];
    const auto left = static_cast<uint32_t>(prompt.ids.size()) - begin;
    const uint32_t count = std::min(schedule.chunk_tokens, left);
    const std::span<const TokenId> ids(prompt.ids);
    const std::span<const uint8_t> dead(prompt.dead);
    steps.push_back(
        {SequenceSlot(static_cast<uint32_t>(p)), begin, ids.subspan(begin, count), true});
    TokenRun run;
    run.history = ids.first(begin);
    run.tokens = ids.subspan(begin, count);
    if (!dead.empty()) {
      run.history_dead = dead.first(begin);
      run.tokens_dead = dead.subspan(begin, count);
    }
    runs.push_back(run);
  }
  std::vector<float> logits;
  Status status;
  if (schedule.engram && model.shape().variant.has_value()) {
    TinyRows rows(model, runs, schedule.only_ids);
    EngramRows* const coming = schedule.through ? schedule.through(&rows) : &rows;
    status = backend->Forward(steps, coming, &logits);
  } else {
    status = backend->Forward(steps, nullptr, &logits);
  }
  ASSERT_TRUE(status.ok()) << status.ToString();
  const auto vocabulary = static_cast<size_t>(backend->vocabulary_size());
  // A rank other than 0 gets none.
  if (!logits.empty()) {
    ASSERT_EQ(logits.size(), which.size() * vocabulary);
  }
  for (size_t i = 0; i < which.size(); ++i) {
    uint32_t& at = (*next)[which[i]];
    at += static_cast<uint32_t>(steps[i].tokens.size());
    if (logits.empty()) continue;
    const auto begin = logits.begin() + static_cast<ptrdiff_t>(i * vocabulary);
    (*out)[which[i]][at - 1].assign(begin, begin + static_cast<ptrdiff_t>(vocabulary));
  }
}

}  // namespace

Prompt RandomPrompt(const TinyModelShape& shape, uint32_t tokens, bool dead_runs, uint32_t seed) {
  std::mt19937 random(seed);
  Prompt prompt;
  for (uint32_t t = 0; t < tokens; ++t) {
    prompt.ids.push_back(
        static_cast<TokenId>(random() % static_cast<uint32_t>(shape.vocabulary_size)));
    if (dead_runs) prompt.dead.push_back(t % 11 >= 4 && t % 11 < 7 ? 1 : 0);
  }
  return prompt;
}

Logits RunSequences(Backend* backend, const TinyModel& model, const std::vector<Prompt>& prompts,
                    const Schedule& schedule) {
  Logits out(prompts.size());
  std::vector<uint32_t> next(prompts.size(), 0);
  std::vector<std::vector<size_t>> groups;
  for (size_t p = 0; p < prompts.size(); ++p) {
    backend->ResetSlot(SequenceSlot(static_cast<uint32_t>(p)));
    out[p].resize(prompts[p].ids.size());
    if (groups.empty() || !schedule.together) groups.emplace_back();
    groups.back().push_back(p);
  }
  for (const std::vector<size_t>& group : groups) {
    while (!testing::Test::HasFatalFailure()) {
      std::vector<size_t> which;
      for (const size_t p : group) {
        if (next[p] < prompts[p].ids.size()) which.push_back(p);
      }
      if (which.empty()) break;
      RunStep(backend, model, prompts, which, schedule, &next, &out);
    }
  }
  return out;
}

std::unique_ptr<Backend> OpenBackend(const TinyModel& model, uint32_t threads,
                                     const Backend::Limits& limits, Collective* collective) {
  auto config = ReadModelConfig(model.dir());
  EXPECT_TRUE(config.has_value()) << config.error().ToString();
  if (!config.has_value()) return nullptr;
  TensorPart part;
  if (collective != nullptr) part = {collective->rank(), collective->rank_count()};
  auto weights = LoadWeights(model.dir(), *config, part);
  EXPECT_TRUE(weights.has_value()) << weights.error().ToString();
  if (!weights.has_value()) return nullptr;
  CpuBackendOptions options;
  options.limits = limits;
  options.threads = threads;
  options.collective = collective;
  auto backend = CreateCpuBackend(*config, *std::move(weights), options);
  EXPECT_TRUE(backend.has_value()) << backend.error().ToString();
  return backend.has_value() ? *std::move(backend) : nullptr;
}

}  // namespace engram::test
