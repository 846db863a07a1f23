// Rank 0's engine, with followers that do what it does.
#include <atomic>
#include <map>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "model_worker/engine.h"
#include "model_worker/ranks/follower.h"
#include "model_worker/ranks/rank_leader.h"
#include "tests/support/thread_ranks.h"
#include "tests/unit/model_worker/engine_fakes.h"

namespace engram {
namespace {

constexpr int32_t kVocabulary = 97;
constexpr int32_t kLayers = 2;
constexpr uint32_t kStepTokens = 16;

// What a rank has of its own: its fakes check that every step, ticket and reset is as it must be.
struct Rank {
  FakeBackend backend{{4, 256, kStepTokens}, kVocabulary, kLayers};
  FakeRowSource source{kLayers, kStepTokens, 3};
  Rank() { backend.sources = {&source}; }
};

std::vector<std::vector<TokenId>> Prompts() {
  std::vector<std::vector<TokenId>> prompts;
  for (int32_t length : {1, 30, 7, 16, 45, 3, 12}) {
    std::vector<TokenId> prompt;
    for (int32_t i = 0; i < length; ++i) prompt.push_back((length * 31 + i * 7) % kVocabulary);
    prompts.push_back(prompt);
  }
  return prompts;
}

// Runs all prompts on rank 0's engine; the results by prompt.
std::vector<GenerationResult> Generate(Engine* engine, uint32_t tokens_max) {
  const auto prompts = Prompts();
  std::vector<GenerationResult> results(prompts.size());
  for (size_t i = 0; i < prompts.size(); ++i) {
    GenerationRequest request;
    request.prompt = prompts[i];
    request.tokens_max = tokens_max;
    request.on_finished = [&results, i](GenerationResult result) {
      results[i] = std::move(result);
    };
    EXPECT_TRUE(engine->Submit(std::move(request)).has_value());
  }
  engine->RunUntilIdle();
  return results;
}

// `prepare` breaks something of a rank; `check` looks at rank 0's results.
void RunEngine(uint32_t rank_count, uint32_t retries,
               const std::function<void(uint32_t, Rank*)>& prepare,
               const std::function<void(const Rank&, const std::vector<GenerationResult>&,
                                        const std::vector<RankFigures>&)>& check) {
  std::mutex mutex;
  std::vector<std::vector<std::vector<size_t>>> steps(rank_count);
  test::RunRanks(rank_count, [&](Collective* collective) {
    Rank rank;
    prepare(collective->rank(), &rank);
    if (collective->rank() != 0) {
      const Status status = FollowLeader(collective, &rank.backend, {&rank.source});
      EXPECT_TRUE(status.ok()) << status.ToString();
    } else {
      RankLeader leader(collective, &rank.backend, {&rank.source}, {FetchWay::kAll, 0});
      Engine::Options options;
      options.prefill_chunk_tokens = 10;
      options.row_retries_max = retries;
      auto engine = Engine::Create(leader.backend(), leader.rows(0), options);
      ASSERT_TRUE(engine.has_value()) << engine.error().ToString();
      const auto results = Generate(engine->get(), 9);
      check(rank, results, leader.FreshFigures());
    }
    EXPECT_EQ(rank.source.held(), 0u) << "rank " << collective->rank();
    const std::lock_guard lock(mutex);
    steps[collective->rank()] = rank.backend.step_sizes;
  });
  for (uint32_t rank = 1; rank < rank_count; ++rank) EXPECT_EQ(steps[rank], steps[0]);
}

void ExpectRight(const Rank& rank, const std::vector<GenerationResult>& results) {
  const auto prompts = Prompts();
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_TRUE(results[i].status.ok()) << results[i].status.ToString();
    EXPECT_EQ(results[i].tokens, rank.backend.Expected(prompts[i], 9, true)) << "prompt " << i;
  }
}

TEST(RanksEngineTest, EveryRankRunsTheSameSteps) {
  for (const uint32_t ranks : {2u, 4u}) {
    RunEngine(
        ranks, 0, [](uint32_t, Rank*) {},
        [&](const Rank& rank, const auto& results, const auto& figures) {
          ExpectRight(rank, results);
          EXPECT_EQ(figures.size(), ranks);
        });
  }
}

TEST(RanksEngineTest, RowsThatAFollowerCannotHaveAreComputedAgain) {
  std::atomic<int> failures{0};
  RunEngine(
      4, 3,
      [&](uint32_t number, Rank* rank) {
        if (number != 2) return;
        // The third and the eighth Await.
        rank->source.await_status = [&, asked = 0](Ticket, int32_t) mutable {
          ++asked;
          if (asked != 3 && asked != 8) return Status();
          ++failures;
          return Status(StatusCode::kUnavailable, "node m2 is gone");
        };
      },
      [](const Rank& rank, const auto& results, const auto&) { ExpectRight(rank, results); });
  EXPECT_EQ(failures, 2);
}

TEST(RanksEngineTest, WithoutRetriesTheRequestsOfTheStepFailWithTheRanksName) {
  RunEngine(
      2, 0,
      [&](uint32_t number, Rank* rank) {
        if (number != 1) return;
        rank->source.await_status = [asked = 0](Ticket, int32_t) mutable {
          return ++asked == 2 ? Status(StatusCode::kDeadlineExceeded, "node m2 is slow") : Status();
        };
      },
      [](const Rank& rank, const auto& results, const auto&) {
        size_t failed = 0;
        const auto prompts = Prompts();
        for (size_t i = 0; i < results.size(); ++i) {
          if (results[i].status.ok()) {
            EXPECT_EQ(results[i].tokens, rank.backend.Expected(prompts[i], 9, true));
            continue;
          }
          ++failed;
          EXPECT_EQ(results[i].status.code(), StatusCode::kDeadlineExceeded);
          EXPECT_THAT(results[i].status.message(),
                      testing::HasSubstr("rank 1 of 2: node m2 is slow"));
        }
        EXPECT_GT(failed, 0u);
        EXPECT_LT(failed, results.size());
      });
}

TEST(RanksEngineTest, RowsMayBeOff) {
  test::RunRanks(2, [&](Collective* collective) {
    FakeBackend backend({4, 256, kStepTokens}, kVocabulary, kLayers);
    if (collective->rank() != 0) {
      EXPECT_TRUE(FollowLeader(collective, &backend, {nullptr}).ok());
      return;
    }
    RankLeader leader(collective, &backend, {nullptr}, {});
    EXPECT_EQ(leader.rows(0), nullptr);
    auto engine = Engine::Create(leader.backend(), leader.rows(0), {});
    ASSERT_TRUE(engine.has_value());
    const auto results = Generate(engine->get(), 4);
    const auto prompts = Prompts();
    for (size_t i = 0; i < prompts.size(); ++i) {
      EXPECT_EQ(results[i].tokens, backend.Expected(prompts[i], 4, false));
    }
  });
}

using RanksEngineDeathTest = testing::Test;

TEST(RanksEngineDeathTest, AStepThatFailsOnOneRankAloneEndsThem) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(RunEngine(
                   2, 0,
                   [](uint32_t number, Rank* rank) {
                     if (number != 1) return;
                     rank->backend.before = [](std::span<const SequenceStep>) {
                       return Status(StatusCode::kInternal, "oneDNN failed");
                     };
                   },
                   [](const Rank&, const auto&, const auto&) {}),
               "rank 1: INTERNAL: in the middle of a step: oneDNN failed");
}

}  // namespace
}  // namespace engram
