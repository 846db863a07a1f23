#include "client/remote_rows.h"

#include <numeric>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::ExpectRightRows;
using test::LoopbackCluster;
using test::SomeTokens;

// For batches that must succeed, however busy the machine; and for those that must fail.
constexpr BatchOptions kPatient{.deadline = std::chrono::seconds(60)};
constexpr BatchOptions kHasty{.deadline = std::chrono::seconds(1)};

// Prefetches, awaits every layer, compares every row, releases.
void ReadAndCheck(RowSource& source, std::span<const TokenRun> runs) {
  const auto ticket = source.Prefetch(runs, kPatient);
  ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
  for (int32_t layer = 0; layer < source.layout().layer_count(); ++layer) {
    const auto rows = source.Await(*ticket, layer);
    ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
    ExpectRightRows(source, layer, runs, *rows);
  }
  source.Release(*ticket);
}

TEST(RemoteRowsTest, EveryTokenGetsItsRowsFromThreeNodes) {
  LoopbackCluster cluster(3);
  const auto source = cluster.Connect(cluster.Options());
  for (const size_t count : {1u, 2u, 50u, 256u}) {
    const auto tokens = SomeTokens(count, count);
    const TokenRun run{.tokens = tokens};
    ReadAndCheck(*source, {&run, 1});
  }
  const RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.batches, 4u);
  EXPECT_EQ(stats.tokens, 309u);
  EXPECT_EQ(stats.rows_asked, 309u * 2 * 4);
  EXPECT_EQ(stats.rows_wrong, 0u);
  EXPECT_EQ(stats.rows_verified, stats.rows_unique);
  EXPECT_EQ(stats.rows_read, stats.rows_unique);
  EXPECT_EQ(stats.layers[0].batches, 4u);
  EXPECT_EQ(stats.layers[1].prefetch_us.size(), 4u);
  EXPECT_GT(stats.row_path_cpu_ns, 0u);
}

TEST(RemoteRowsTest, RunsOfManySequencesKeepTheirHistoriesApart) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  const auto a = SomeTokens(20, 1);
  const auto b = SomeTokens(5, 2);
  const auto history = SomeTokens(9, 3);
  const TokenRun runs[] = {{.history = history, .tokens = a}, {.tokens = {}}, {.tokens = b}};
  ReadAndCheck(*source, runs);
}

TEST(RemoteRowsTest, SeveralThreadsGiveTheSameRows) {
  LoopbackCluster cluster(3);
  RemoteRowsOptions options = cluster.Options();
  options.io_threads = 3;
  const auto source = cluster.Connect(options);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto tokens = SomeTokens(100, seed, 40);
    const TokenRun run{.tokens = tokens};
    ReadAndCheck(*source, {&run, 1});
  }
  EXPECT_EQ(source->Stats().layers[1].batches, 20u);
}

TEST(RemoteRowsTest, RepeatedTokensAreReadOnce) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  const std::vector<TokenId> tokens(200, 5);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  // The first two positions look back to the padding; the rest are equal.
  EXPECT_LE(source->Stats().rows_unique, 3u * 2 * 4);
  EXPECT_EQ(source->Stats().rows_read, source->Stats().rows_unique);
}

// Puts together what sources of all stripes read of a batch, as ranks do.
void ReadStripesAndCheck(const std::vector<std::unique_ptr<RowSource>>& sources,
                         std::span<const TokenRun> runs) {
  BatchOptions batch = kPatient;
  batch.striped = true;
  std::vector<Ticket> tickets;
  for (const auto& source : sources) {
    const auto ticket = source->Prefetch(runs, batch);
    ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
    tickets.push_back(*ticket);
  }
  const TableLayout& layout = sources[0]->layout();
  for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
    LayerRows together;
    for (size_t i = 0; i < sources.size(); ++i) {
      const auto rows = sources[i]->Await(tickets[i], layer);
      ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
      ASSERT_EQ(rows->others.data(), rows->rows.data());
      if (i == 0) together = *rows;
      const auto columns = static_cast<size_t>(layout.column_count());
      for (size_t t = 0; t < rows->token_count; ++t) {
        for (size_t c = i; c < columns; c += sources.size()) {
          const size_t at = (t * columns + c) * layout.row_bytes();
          std::copy_n(rows->rows.begin() + static_cast<std::ptrdiff_t>(at), layout.row_bytes(),
                      together.others.begin() + static_cast<std::ptrdiff_t>(at));
        }
      }
    }
    ExpectRightRows(*sources[0], layer, runs, together);
  }
  for (size_t i = 0; i < sources.size(); ++i) sources[i]->Release(tickets[i]);
}

TEST(RemoteRowsTest, StripesTogetherAreAllRowsEachReadOnce) {
  LoopbackCluster cluster(3);
  const auto tokens = SomeTokens(200, 3, 60);
  const TokenRun run{.tokens = tokens};
  const auto whole = cluster.Connect(cluster.Options());
  ReadAndCheck(*whole, {&run, 1});
  for (const uint32_t stripes : {2u, 3u, 4u, 8u}) {  // of four columns
    for (const uint32_t threads : {1u, 2u, 3u}) {
      std::vector<std::unique_ptr<RowSource>> sources;
      for (uint32_t i = 0; i < stripes; ++i) {
        RemoteRowsOptions options = cluster.Options();
        options.io_threads = threads;
        options.cache_bytes = 1u << 20;
        options.stripe = {i, stripes};
        sources.push_back(cluster.Connect(options));
      }
      ReadStripesAndCheck(sources, {&run, 1});
      uint64_t asked = 0;
      uint64_t read = 0;
      for (uint32_t i = 0; i < stripes; ++i) {
        asked += sources[i]->Stats().rows_asked;
        read += sources[i]->Stats().rows_read;
        if (i >= 4) {
          EXPECT_EQ(sources[i]->Stats().rows_asked, 0u);
        }
      }
      EXPECT_EQ(asked, whole->Stats().rows_asked) << stripes << " stripes";
      EXPECT_EQ(read, whole->Stats().rows_read) << stripes << " stripes";
      // Batches of all columns between, and what the cache holds of either, are not mixed up.
      for (const auto& source : sources) ReadAndCheck(*source, {&run, 1});
      ReadStripesAndCheck(sources, {&run, 1});
      for (const auto& source : sources) ReadAndCheck(*source, {&run, 1});
    }
  }
}

TEST(RemoteRowsTest, AStripeThatIsNoneIsRefused) {
  LoopbackCluster cluster(1);
  RemoteRowsOptions options = cluster.Options();
  options.stripe = {2, 2};
  const auto rows = CreateRemoteRows(options, cluster.network.CreateTransport(), cluster.hasher,
                                     cluster.layout, cluster.maps);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kInvalidArgument);
}

TEST(RemoteRowsTest, SecondBatchComesFromTheCache) {
  LoopbackCluster cluster(2);
  RemoteRowsOptions options = cluster.Options();
  options.cache_bytes = 4u << 20;
  const auto source = cluster.Connect(options);
  const auto tokens = SomeTokens(64, 9);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  const uint64_t read = source->Stats().rows_read;
  ReadAndCheck(*source, {&run, 1});
  const RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.rows_from_cache, read);
  EXPECT_EQ(stats.rows_read, read);
  EXPECT_EQ(stats.layers[0].batches, 2u);
}

TEST(RemoteRowsTest, DeadTokensAreNotReadAndAreMarked) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  const auto tokens = SomeTokens(6, 4);
  const std::vector<uint8_t> dead = {0, 1, 1, 0, 0, 1};
  const TokenRun runs[] = {{.tokens = tokens, .tokens_dead = dead}, {.tokens = tokens}};
  const auto ticket = source->Prefetch(runs, kPatient);
  ASSERT_TRUE(ticket.has_value());
  for (int32_t layer = 0; layer < 2; ++layer) {
    const auto rows = source->Await(*ticket, layer);
    ASSERT_TRUE(rows.has_value());
    EXPECT_THAT(rows->dead, ::testing::ElementsAre(0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0));
    ExpectRightRows(*source, layer, runs, *rows);
  }
  EXPECT_EQ(source->Stats().rows_asked, (12u - 3u) * 8);
  source->Release(*ticket);
}

TEST(RemoteRowsTest, AllDeadBatchIsReadyWithoutARead) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  const std::vector<TokenId> tokens = {1, 2};
  const std::vector<uint8_t> dead = {1, 1};
  const TokenRun run{.tokens = tokens, .tokens_dead = dead};
  const auto ticket = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(ticket.has_value());
  EXPECT_TRUE(source->Await(*ticket, 1).has_value());
  EXPECT_EQ(source->Stats().rows_read, 0u);
  source->Release(*ticket);
}

TEST(RemoteRowsTest, DamagedRowsAreRejectedReportedAndReadAgain) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  cluster.network.CorruptRows(LoopbackCluster::Address(0), 5);
  const auto tokens = SomeTokens(100, 11);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  const RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.rows_wrong, 5u);
  EXPECT_EQ(stats.rows_verified, stats.rows_unique);
  EXPECT_EQ(stats.rows_read, stats.rows_unique + 5);
  EXPECT_GE(stats.reads_retried, 1u);
  EXPECT_EQ(cluster.maps->slots_reported(), 5u);
}

TEST(RemoteRowsTest, RowsThatStayDamagedAreAnErrorAndNeverDelivered) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  cluster.network.CorruptRows(LoopbackCluster::Address(0), 1u << 30);
  const auto tokens = SomeTokens(3, 12);
  const TokenRun run{.tokens = tokens};
  const auto ticket = source->Prefetch({&run, 1}, kHasty);
  ASSERT_TRUE(ticket.has_value());
  const auto rows = source->Await(*ticket, 0);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kCorrupt);
  EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("memory node m0"));
  EXPECT_EQ(source->Stats().rows_verified, 0u);
  EXPECT_GT(source->Stats().rows_failed, 0u);
  source->Release(*ticket);
}

TEST(RemoteRowsTest, LostNodeIsNamedAndComesBack) {
  LoopbackCluster cluster(3);
  const auto source = cluster.Connect(cluster.Options());
  const auto tokens = SomeTokens(200, 13);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  cluster.network.Lose(LoopbackCluster::Address(1));
  const auto ticket = source->Prefetch({&run, 1}, kHasty);
  ASSERT_TRUE(ticket.has_value());
  for (int32_t layer = 0; layer < 2; ++layer) {
    const auto rows = source->Await(*ticket, layer);
    ASSERT_FALSE(rows.has_value());
    EXPECT_EQ(rows.error().code(), StatusCode::kUnavailable);
    EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("memory node m1 (host1:1)"));
    EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("row "));
  }
  source->Release(*ticket);
  cluster.StartNode(1);  // a new incarnation
  cluster.maps->Set(cluster.Map(2));
  ReadAndCheck(*source, {&run, 1});
  EXPECT_GT(source->Stats().rows_failed, 0u);
  EXPECT_EQ(source->Stats().rows_wrong, 0u);
}

TEST(RemoteRowsTest, BatchInFlightIsFinishedWhenTheNodeComesBackInTime) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  const auto tokens = SomeTokens(200, 14);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  cluster.network.Lose(LoopbackCluster::Address(1));
  const auto ticket = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(ticket.has_value());
  cluster.StartNode(1);
  cluster.maps->Set(cluster.Map(2));
  for (int32_t layer = 0; layer < 2; ++layer) {
    const auto rows = source->Await(*ticket, layer);
    ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
    ExpectRightRows(*source, layer, {&run, 1}, *rows);
  }
  source->Release(*ticket);
}

TEST(RemoteRowsTest, NodeThatDoesNotAnswerIsADeadlineExceeded) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  const auto tokens = SomeTokens(50, 15);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  cluster.network.Hold(LoopbackCluster::Address(0));
  const auto ticket = source->Prefetch({&run, 1}, kHasty);
  ASSERT_TRUE(ticket.has_value());
  const auto rows = source->Await(*ticket, 0);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kDeadlineExceeded);
  EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("memory node m0"));
  source->Release(*ticket);
  cluster.network.Release(LoopbackCluster::Address(0));
  ReadAndCheck(*source, {&run, 1});
}

TEST(RemoteRowsTest, LostNodeCostsNoRowWhereThereAreReplicas) {
  LoopbackCluster cluster(3, 2000, 2);
  RemoteRowsOptions options = cluster.Options();
  options.staging_buffers = 4;
  const auto source = cluster.Connect(options);
  const auto tokens = SomeTokens(200, 16);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  cluster.network.Hold(LoopbackCluster::Address(1));
  std::vector<Ticket> tickets;  // with reads in flight at the node that is lost
  for (int i = 0; i < 3; ++i) tickets.push_back(source->Prefetch({&run, 1}, kPatient).value());
  cluster.network.Lose(LoopbackCluster::Address(1));
  for (const Ticket ticket : tickets) {
    for (int32_t layer = 0; layer < 2; ++layer) {
      const auto rows = source->Await(ticket, layer);
      ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
      ExpectRightRows(*source, layer, {&run, 1}, *rows);
    }
    source->Release(ticket);
  }
  ReadAndCheck(*source, {&run, 1});
  EXPECT_EQ(source->Stats().rows_failed, 0u);
}

TEST(RemoteRowsTest, NodeThatHangsHoldsNoBatchUntilItsSessionIsGivenUp) {
  LoopbackCluster cluster(3, 2000, 2);
  RemoteRowsOptions options = cluster.Options();
  options.read_silence_max = std::chrono::seconds(60);
  const auto source = cluster.Connect(options);
  const auto tokens = SomeTokens(200, 17);
  const TokenRun run{.tokens = tokens};
  for (int i = 0; i < 50; ++i) ReadAndCheck(*source, {&run, 1});
  cluster.network.Hold(LoopbackCluster::Address(0));
  const MonotonicTime begin = SteadyClock().Now();
  for (int i = 0; i < 5; ++i) ReadAndCheck(*source, {&run, 1});
  const Duration took = SteadyClock().Now() - begin;
  // 50 ms and the comparison of the rows; ten times that for a busy machine.
  EXPECT_LT(took, std::chrono::seconds(5));
  RecordProperty("milliseconds", static_cast<int>(took / std::chrono::milliseconds(1)));
  const RowSourceStats stats = source->Stats();
  EXPECT_GT(stats.reads_hedged, 0u);
  EXPECT_GT(stats.hedges_won, 0u);
  EXPECT_EQ(stats.rows_failed, 0u);
  cluster.network.Release(LoopbackCluster::Address(0));
  for (int i = 0; i < 5; ++i) ReadAndCheck(*source, {&run, 1});
  EXPECT_EQ(source->Stats().rows_wrong, 0u);
}

TEST(RemoteRowsTest, LateRowsOfAnAbandonedTicketDoNotReachTheNextBatch) {
  LoopbackCluster cluster(2);
  RemoteRowsOptions options = cluster.Options();
  options.staging_buffers = 1;  // every batch uses the same memory
  const auto source = cluster.Connect(options);
  for (uint64_t seed = 0; seed < 30; ++seed) {
    cluster.network.SetDelay(LoopbackCluster::Address(0), std::chrono::milliseconds(2));
    const auto abandoned = SomeTokens(100, 1000 + seed);
    const TokenRun abandoned_run{.tokens = abandoned};
    const auto ticket = source->Prefetch({&abandoned_run, 1}, kPatient);
    ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
    source->Release(*ticket);
    cluster.network.SetDelay(LoopbackCluster::Address(0), Duration::zero());
    const auto tokens = SomeTokens(100, seed);
    const TokenRun run{.tokens = tokens};
    ReadAndCheck(*source, {&run, 1});
  }
}

TEST(RemoteRowsTest, TicketsBeyondTheStagingBuffersAreRefused) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  const std::vector<TokenId> tokens = {1, 2, 3};
  const TokenRun run{.tokens = tokens};
  const auto first = source->Prefetch({&run, 1}, kPatient);
  const auto second = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(first.has_value() && second.has_value());
  const auto third = source->Prefetch({&run, 1}, kPatient);
  ASSERT_FALSE(third.has_value());
  EXPECT_EQ(third.error().code(), StatusCode::kResourceExhausted);
  source->Release(*first);
  const auto fourth = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(fourth.has_value()) << fourth.error().ToString();
  EXPECT_FALSE(source->Await(*first, 0).has_value());
  EXPECT_TRUE(source->Await(*second, 0).has_value());
  EXPECT_TRUE(source->Await(*fourth, 1).has_value());
  source->Release(*second);
  source->Release(*second);  // once more changes nothing
  source->Release(*fourth);
}

TEST(RemoteRowsTest, BadBatchesAreRefused) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  const std::vector<TokenId> too_many(257, 1);
  const std::vector<TokenId> outside = {1, 1500};
  for (const auto* tokens : {&too_many, &outside}) {
    const TokenRun run{.tokens = *tokens};
    const auto ticket = source->Prefetch({&run, 1}, kPatient);
    ASSERT_FALSE(ticket.has_value());
    EXPECT_EQ(ticket.error().code(), StatusCode::kInvalidArgument);
  }
  EXPECT_FALSE(source->Prefetch({}, kPatient).has_value());
  EXPECT_EQ(source->Await(Ticket(77), 0).error().code(), StatusCode::kInvalidArgument);
}

TEST(RemoteRowsTest, SlotsThatMoveAreFollowed) {
  LoopbackCluster cluster(2);
  const auto source = cluster.Connect(cluster.Options());
  const auto tokens = SomeTokens(100, 21);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  // Node 1 takes every slot; the map that the client has is wrong from now on.
  cluster.servers[1]->Serve(test::FillSlots(*cluster.servers[1], test::kTestVersion, cluster.layout,
                                            [](uint32_t) { return true; }));
  cluster.servers[0]->Serve(test::FillSlots(*cluster.servers[0], test::kTestVersion, cluster.layout,
                                            [](uint32_t) { return false; }));
  const auto ticket = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(ticket.has_value());
  while (cluster.maps->times_wanted() == 0) std::this_thread::yield();
  ShardMap map = cluster.Map(2);
  for (NodeIndex& owner : map.owners) owner = NodeIndex(1);
  cluster.maps->Set(map);
  const auto rows = source->Await(*ticket, 1);
  ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
  ExpectRightRows(*source, 1, {&run, 1}, *rows);
  source->Release(*ticket);
}

TEST(RemoteRowsTest, AnotherModelIsRefusedByName) {
  LoopbackCluster cluster(1);
  RemoteRowsOptions options = cluster.Options();
  options.identity[3] ^= 1;
  const auto source = cluster.Connect(options);
  const std::vector<TokenId> tokens = {1};
  const TokenRun run{.tokens = tokens};
  const auto ticket = source->Prefetch({&run, 1}, kHasty);
  ASSERT_TRUE(ticket.has_value());
  const auto rows = source->Await(*ticket, 0);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kWrongModel);
  source->Release(*ticket);
}

TEST(RemoteRowsTest, OptionsOutOfRangeAreNamed) {
  LoopbackCluster cluster(1);
  RemoteRowsOptions options = cluster.Options();
  options.io_threads = 0;
  const auto rows = CreateRemoteRows(options, cluster.network.CreateTransport(), cluster.hasher,
                                     cluster.layout, cluster.maps);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("io_threads"));
  options = cluster.Options();
  options.hedging.late_min = 2 * options.hedging.late_max;
  const auto hedged = CreateRemoteRows(options, cluster.network.CreateTransport(), cluster.hasher,
                                       cluster.layout, cluster.maps);
  ASSERT_FALSE(hedged.has_value());
  EXPECT_THAT(hedged.error().message(), ::testing::HasSubstr("hedging"));
}

TEST(RemoteRowsTest, SessionsAreOpenBeforeTheFirstBatchWhereTheyAreWaitedFor) {
  LoopbackCluster cluster(3);
  RemoteRowsOptions options = cluster.Options();
  options.io_threads = 2;
  options.sessions_wait = std::chrono::seconds(60);
  const auto source = cluster.Connect(options);
  const auto sessions = source->Stats().held.sessions;
  EXPECT_EQ(std::accumulate(sessions.begin(), sessions.end(), uint64_t{0}), 3u * 2);
}

TEST(RemoteRowsTest, NodeThatIsLostHoldsNoReaderUpForEver) {
  LoopbackCluster cluster(3, 2000, 2);
  cluster.network.Lose(LoopbackCluster::Address(1));
  RemoteRowsOptions options = cluster.Options();
  options.sessions_wait = std::chrono::milliseconds(50);
  const auto source = cluster.Connect(options);
  const auto tokens = SomeTokens(50, 21);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  cluster.maps->Set([&] {  // said to be down: not waited for at all
    ShardMap map = cluster.Map(2);
    map.nodes[1].incarnation = Incarnation();
    return map;
  }());
  options.sessions_wait = std::chrono::hours(1);
  ReadAndCheck(*cluster.Connect(options), {&run, 1});
}

TEST(RemoteRowsTest, VersionThatANodeHasDroppedIsRefusedByName) {
  LoopbackCluster cluster(3);
  cluster.servers[2]->Drop(test::kTestVersion);
  RemoteRowsOptions options = cluster.Options();
  options.sessions_wait = std::chrono::milliseconds(200);
  const auto rows = CreateRemoteRows(options, cluster.network.CreateTransport(), cluster.hasher,
                                     cluster.layout, cluster.maps);
  ASSERT_FALSE(rows.has_value());
  EXPECT_EQ(rows.error().code(), StatusCode::kWrongVersion);
  EXPECT_THAT(rows.error().message(), ::testing::HasSubstr("memory node m2 (host2:1)"));
}

TEST(RemoteRowsTest, ThreadsThatSpinReadWhetherTheyAreAwakeOrSleep) {
  LoopbackCluster cluster(2);
  RemoteRowsOptions options = cluster.Options();
  options.spin = std::chrono::milliseconds(20);
  const auto source = cluster.Connect(options);
  const auto tokens = SomeTokens(64, 22);
  const TokenRun run{.tokens = tokens};
  const auto spent = [&] { return source->Stats().row_path_cpu_ns; };
  ReadAndCheck(*source, {&run, 1});
  ReadAndCheck(*source, {&run, 1});
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  const uint64_t asleep = spent();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_LT(spent() - asleep, 50'000'000u);  // it ended its spin
  ReadAndCheck(*source, {&run, 1});
}

TEST(RemoteRowsTest, ResetStatsStartsAgainAtZero) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  const std::vector<TokenId> tokens = {1, 2};
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  source->ResetStats();
  RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.batches, 0u);
  EXPECT_EQ(stats.rows_read, 0u);
  EXPECT_TRUE(stats.layers[0].window_us.empty());
  ReadAndCheck(*source, {&run, 1});
  EXPECT_EQ(source->Stats().rows_unique, 2u * 8);
}

// With one I/O thread callers do its work while it sleeps; with several they never do.
TEST(RemoteRowsTest, ThreadsMayUseOneSourceAtOnce) {
  for (const uint32_t io_threads : {1u, 2u}) {
    LoopbackCluster cluster(2);
    RemoteRowsOptions options = cluster.Options();
    options.staging_buffers = 4;
    options.io_threads = io_threads;
    const auto source = cluster.Connect(options);
    std::vector<std::thread> threads;
    for (uint64_t i = 0; i < 3; ++i) {
      threads.emplace_back([&source, i] {
        for (uint64_t round = 0; round < 40; ++round) {
          // From one token, which the caller of Prefetch begins with, to many.
          const auto tokens = SomeTokens(1 + round * 5, i * 100 + round);
          const TokenRun run{.tokens = tokens};
          ReadAndCheck(*source, {&run, 1});
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(source->Stats().batches, 120u);
  }
}

}  // namespace
}  // namespace engram
