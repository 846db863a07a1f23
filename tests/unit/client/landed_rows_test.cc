// Rows that go into the memory of a GPU, which is the host's here (tests/gpu/device_landing_test.cc
// has the real one).
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/host_landing.h"
#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::ExpectRightRows;
using test::HostLanding;
using test::LoopbackCluster;
using test::SomeTokens;
using testing::HasSubstr;

constexpr BatchOptions kPatient{.deadline = std::chrono::seconds(60)};

class LandedRowsTest : public testing::Test {
 protected:
  [[nodiscard]] std::unique_ptr<RowSource> Connect(uint32_t io_threads = 1) {
    RemoteRowsOptions options = cluster_.Options();
    options.io_threads = io_threads;
    options.landing = &landing_;
    return cluster_.Connect(options);
  }
  // Of every layer, as a backend finds them.
  void ExpectRight(RowSource& source, Ticket ticket, std::span<const TokenRun> runs) {
    for (int32_t layer = 0; layer < source.layout().layer_count(); ++layer) {
      auto rows = source.Await(ticket, layer);
      ASSERT_TRUE(rows.has_value()) << rows.error().ToString();
      ASSERT_TRUE(rows->only_ids);
      ASSERT_NE(rows->landed.rows, nullptr);
      const std::vector<std::byte> found = HostLanding::LookUp(*rows, source.layout().row_bytes());
      rows->rows = found;
      ExpectRightRows(source, layer, runs, *rows);
    }
  }
  void ReadAndCheck(RowSource& source, std::span<const TokenRun> runs) {
    const auto ticket = source.Prefetch(runs, kPatient);
    ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
    ExpectRight(source, *ticket, runs);
    source.Release(*ticket);
  }

  HostLanding landing_;
  LoopbackCluster cluster_{3};
};

TEST_F(LandedRowsTest, EveryTokenFindsItsRowsInItsPlaces) {
  for (const uint32_t threads : {1u, 3u}) {
    const auto source = Connect(threads);
    uint64_t kept_before = landing_.kept;
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const auto a = SomeTokens(1 + seed * 8, seed, 40);
      const auto b = SomeTokens(5, seed + 100);
      std::vector<uint8_t> dead(b.size(), 0);
      dead[seed % dead.size()] = 1;
      const TokenRun runs[] = {{.history = b, .tokens = a}, {.tokens = b, .tokens_dead = dead}};
      ReadAndCheck(*source, runs);
    }
    const RowSourceStats stats = source->Stats();
    EXPECT_EQ(stats.rows_verified, stats.rows_unique);
    EXPECT_EQ(landing_.kept - kept_before, stats.rows_verified);
    EXPECT_EQ(stats.rows_landed, 0u);  // by messages: no card put them there
    EXPECT_EQ(stats.rows_wrong, 0u);
  }
}

TEST_F(LandedRowsTest, BatchesAtOnceHavePlacesOfTheirOwn) {
  const auto source = Connect(2);
  const auto first = SomeTokens(256, 1);
  const auto second = SomeTokens(256, 2);
  const TokenRun run_of_first{.tokens = first};
  const TokenRun run_of_second{.tokens = second};
  const auto ticket = source->Prefetch({&run_of_first, 1}, kPatient);
  ASSERT_TRUE(ticket.has_value());
  ASSERT_NO_FATAL_FAILURE(ReadAndCheck(*source, {&run_of_second, 1}));
  ASSERT_NO_FATAL_FAILURE(ReadAndCheck(*source, {&run_of_second, 1}));
  ExpectRight(*source, *ticket, {&run_of_first, 1});
  source->Release(*ticket);
}

TEST_F(LandedRowsTest, DamagedRowsAreRejectedReportedAndReadAgain) {
  const auto source = Connect();
  cluster_.network.CorruptRows(LoopbackCluster::Address(0), 5);
  const auto tokens = SomeTokens(100, 11);
  const TokenRun run{.tokens = tokens};
  ReadAndCheck(*source, {&run, 1});
  const RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.rows_wrong, 5u);
  EXPECT_EQ(stats.rows_verified, stats.rows_unique);
  EXPECT_EQ(landing_.kept, stats.rows_unique);
  EXPECT_EQ(cluster_.maps->slots_reported(), 5u);
}

TEST_F(LandedRowsTest, AGpuThatBreaksDownIsTheErrorOfTheLayerAndNotTheNodes) {
  const auto source = Connect(2);
  const auto tokens = SomeTokens(30, 3);
  const TokenRun run{.tokens = tokens};
  landing_.keep_fails = true;
  const auto ticket = source->Prefetch({&run, 1}, kPatient);
  ASSERT_TRUE(ticket.has_value());
  for (int32_t layer = 0; layer < 2; ++layer) {
    const auto rows = source->Await(*ticket, layer);
    ASSERT_FALSE(rows.has_value());
    EXPECT_EQ(rows.error().code(), StatusCode::kInternal);
    EXPECT_THAT(rows.error().message(), HasSubstr("the GPU broke down"));
  }
  source->Release(*ticket);
  RowSourceStats stats = source->Stats();
  EXPECT_EQ(stats.rows_verified, 0u);
  EXPECT_EQ(stats.rows_wrong, 0u);
  EXPECT_EQ(stats.reads_retried, 0u);
  EXPECT_EQ(cluster_.maps->slots_reported(), 0u);

  landing_.keep_fails = false;
  ReadAndCheck(*source, {&run, 1});
}

TEST_F(LandedRowsTest, ARowCacheAndStripesAreRefused) {
  RemoteRowsOptions cached = cluster_.Options();
  cached.cache_bytes = 1 << 20;
  RemoteRowsOptions striped = cluster_.Options();
  striped.stripe = {0, 2};
  for (RemoteRowsOptions* const options : {&cached, &striped}) {
    options->landing = &landing_;
    const auto rows = CreateRemoteRows(*options, cluster_.network.CreateTransport(),
                                       cluster_.hasher, cluster_.layout, cluster_.maps);
    ASSERT_FALSE(rows.has_value());
    EXPECT_EQ(rows.error().code(), StatusCode::kInvalidArgument);
    EXPECT_THAT(rows.error().message(), HasSubstr("cache_bytes must be 0"));
  }
}

}  // namespace
}  // namespace engram
