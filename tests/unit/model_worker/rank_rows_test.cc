// Rows that ranks read together, from memory nodes in this process.
#include "model_worker/ranks/rank_rows.h"

#include <atomic>
#include <numeric>
#include <ostream>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/thread_ranks.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::ExpectRightRows;
using test::LoopbackCluster;
using test::SomeTokens;
using testing::HasSubstr;

constexpr std::chrono::seconds kPatient{60};

std::unique_ptr<RowSource> Connect(LoopbackCluster* cluster, const Collective& collective,
                                   uint32_t threads = 1) {
  RemoteRowsOptions options = cluster->Options();
  options.stripe = {collective.rank(), collective.rank_count()};
  options.io_threads = threads;
  options.staging_buffers = 3;
  return cluster->Connect(options);
}

struct Case {
  uint32_t ranks;
  bool striped;
};
void PrintTo(const Case& of, std::ostream* out) {
  *out << of.ranks << " ranks, " << (of.striped ? "cooperative" : "all");
}

class RankRowsTest : public testing::TestWithParam<Case> {};

TEST_P(RankRowsTest, EveryRankHasEveryRowAndStripesAreReadOnce) {
  const Case param = GetParam();
  LoopbackCluster cluster(3);
  std::atomic<uint64_t> rows_read{0};
  const auto whole = cluster.Connect(cluster.Options());
  test::RunRanks(param.ranks, [&](Collective* collective) {
    const auto source = Connect(&cluster, *collective, 2);
    ASSERT_NE(source, nullptr);
    RankRows rows(collective, {nullptr, source.get()});
    for (uint64_t batch = 1; batch <= 5; ++batch) {
      const auto tokens = SomeTokens(batch * 50, batch, 300);
      const auto history = SomeTokens(3, batch);
      const TokenRun runs[] = {{.history = history, .tokens = tokens}};
      // The next batch is on its way while this one is awaited.
      ASSERT_TRUE(rows.Prefetch(Ticket(batch), 1, runs, {kPatient, param.striped}).ok());
      const TokenRun ahead{.tokens = history};
      ASSERT_TRUE(
          rows.Prefetch(Ticket(100 + batch), 1, {&ahead, 1}, {kPatient, param.striped}).ok());
      for (int32_t layer = 0; layer < 2; ++layer) {
        for (int again = 0; again < 2; ++again) {  // a second Await does not go round again
          const auto got = rows.Await(Ticket(batch), layer);
          ASSERT_TRUE(got.has_value()) << got.error().ToString();
          ExpectRightRows(*source, layer, runs, *got);
        }
      }
      const auto got = rows.Await(Ticket(100 + batch), 0);
      ASSERT_TRUE(got.has_value());
      ExpectRightRows(*source, 0, {&ahead, 1}, *got);
      rows.Release(Ticket(100 + batch));
      rows.Release(Ticket(batch));
    }
    EXPECT_EQ(collective->stats().gathers, 15u);
    EXPECT_EQ(rows.gathered_rows() != 0, param.striped);
    rows_read += source->Stats().rows_read;
  });
  uint64_t once = 0;
  for (uint64_t batch = 1; batch <= 5; ++batch) {
    const auto tokens = SomeTokens(batch * 50, batch, 300);
    const auto history = SomeTokens(3, batch);
    for (const TokenRun& run :
         {TokenRun{.history = history, .tokens = tokens}, TokenRun{.tokens = history}}) {
      const auto ticket = whole->Prefetch({&run, 1}, {kPatient});
      ASSERT_TRUE(ticket.has_value());
      for (int32_t layer = 0; layer < 2; ++layer) {
        ASSERT_TRUE(whole->Await(*ticket, layer).has_value());
      }
      whole->Release(*ticket);
    }
  }
  once = whole->Stats().rows_read;
  EXPECT_EQ(rows_read, param.striped ? once : once * param.ranks);
}

TEST_P(RankRowsTest, ARowThatOneRankCannotHaveIsAnErrorOnAllAndTheNextBatchIsRight) {
  const Case param = GetParam();
  const uint32_t broken_rank = std::min(param.ranks, 4u) - 1;  // has a column of the four
  // A cluster for each rank, so that one rank's can lose a node.
  std::vector<std::unique_ptr<LoopbackCluster>> clusters;
  for (uint32_t rank = 0; rank < param.ranks; ++rank) {
    clusters.push_back(std::make_unique<LoopbackCluster>(2));
  }
  test::RunRanks(param.ranks, [&](Collective* collective) {
    LoopbackCluster* const cluster = clusters[collective->rank()].get();
    const auto source = Connect(cluster, *collective);
    ASSERT_NE(source, nullptr);
    RankRows rows(collective, {source.get()});
    const auto tokens = SomeTokens(60, 4);
    const TokenRun run{.tokens = tokens};
    const bool broken = collective->rank() == broken_rank;
    if (broken) cluster->servers[1] = nullptr;
    const BatchOptions hasty{
        broken ? std::chrono::milliseconds(500) : std::chrono::milliseconds(kPatient),
        param.striped};
    ASSERT_TRUE(rows.Prefetch(Ticket(1), 0, {&run, 1}, hasty).ok());
    const auto failed = rows.Await(Ticket(1), 0);
    ASSERT_FALSE(failed.has_value());
    EXPECT_THAT(failed.error().message(), HasSubstr("rank " + std::to_string(broken_rank) + " of " +
                                                    std::to_string(param.ranks) + ": "));
    EXPECT_EQ(rows.failure(), failed.error());
    rows.Release(Ticket(1));
    if (broken) {
      cluster->StartNode(1);
      cluster->maps->Set(cluster->Map(2));
    }
    ASSERT_TRUE(rows.Prefetch(Ticket(2), 0, {&run, 1}, {kPatient, param.striped}).ok());
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto got = rows.Await(Ticket(2), layer);
      ASSERT_TRUE(got.has_value()) << got.error().ToString();
      ExpectRightRows(*source, layer, {&run, 1}, *got);
    }
    rows.Release(Ticket(2));
  });
}

TEST_P(RankRowsTest, ARankThatCouldNotEvenAskTellsTheOthers) {
  const Case param = GetParam();
  LoopbackCluster cluster(1);
  test::RunRanks(param.ranks, [&](Collective* collective) {
    const auto source = Connect(&cluster, *collective);
    ASSERT_NE(source, nullptr);
    RankRows rows(collective, {source.get()});
    const auto tokens = SomeTokens(10, 4);
    const TokenRun run{.tokens = tokens};
    // Every staging buffer of rank 1 is in use.
    std::vector<Ticket> held;
    if (collective->rank() == 1) {
      for (int i = 0; i < 3; ++i) held.push_back(source->Prefetch({&run, 1}, {kPatient}).value());
    }
    const Status asked = rows.Prefetch(Ticket(1), 0, {&run, 1}, {kPatient, param.striped});
    EXPECT_EQ(asked.ok(), collective->rank() != 1);
    const auto got = rows.Await(Ticket(1), 0);
    ASSERT_FALSE(got.has_value());
    EXPECT_EQ(got.error().code(), StatusCode::kResourceExhausted);
    EXPECT_THAT(got.error().message(), HasSubstr("rank 1 of "));
    rows.Release(Ticket(1));
    for (const Ticket ticket : held) source->Release(ticket);
  });
}

TEST(RankRowsOfManyLayersTest, EachOfAllTheLayersThatAModelMayHaveGoesRoundOnce) {
  std::vector<int32_t> layer_ids(static_cast<size_t>(kEngramLayersMax));
  std::iota(layer_ids.begin(), layer_ids.end(), 0);
  LoopbackCluster cluster(1, 30, 1, layer_ids);
  test::RunRanks(2, [&](Collective* collective) {
    const auto source = Connect(&cluster, *collective);
    ASSERT_NE(source, nullptr);
    RankRows rows(collective, {source.get()});
    const auto tokens = SomeTokens(5, 4);
    const TokenRun run{.tokens = tokens};
    ASSERT_TRUE(rows.Prefetch(Ticket(1), 0, {&run, 1}, {kPatient, true}).ok());
    for (int again = 0; again < 2; ++again) {
      for (int32_t layer = 0; layer < kEngramLayersMax; ++layer) {
        const auto got = rows.Await(Ticket(1), layer);
        ASSERT_TRUE(got.has_value()) << got.error().ToString();
        ExpectRightRows(*source, layer, {&run, 1}, *got);
      }
    }
    EXPECT_EQ(collective->stats().gathers, static_cast<uint64_t>(kEngramLayersMax));
    rows.Release(Ticket(1));
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, RankRowsTest,
                         testing::Values(Case{2, true}, Case{2, false}, Case{4, true},
                                         Case{4, false}, Case{8, true}),
                         [](const auto& of) {
                           return std::to_string(of.param.ranks) +
                                  (of.param.striped ? "Cooperative" : "All");
                         });

}  // namespace
}  // namespace engram
