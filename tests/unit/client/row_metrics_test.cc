#include "client/row_metrics.h"

#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "tests/unit/client/loopback_cluster.h"

namespace engram {
namespace {

using test::LoopbackCluster;
using ::testing::HasSubstr;

std::string Page(const RowSource& source) {
  return prometheus::TextSerializer().Serialize(RowMetrics(&source).Collect());
}

void ReadBatch(RowSource& source, const std::vector<TokenId>& tokens) {
  const TokenRun run{.tokens = tokens};
  const auto ticket = source.Prefetch({&run, 1}, {.deadline = std::chrono::seconds(60)});
  ASSERT_TRUE(ticket.has_value()) << ticket.error().ToString();
  for (int32_t layer = 0; layer < source.layout().layer_count(); ++layer) {
    ASSERT_TRUE(source.Await(*ticket, layer).has_value());
  }
  source.Release(*ticket);
}

TEST(RowMetricsTest, RowsReadsAndCacheAreTold) {
  LoopbackCluster cluster(2);
  RemoteRowsOptions options = cluster.Options();
  options.cache_bytes = 4u << 20;
  const auto source = cluster.Connect(options);
  cluster.network.CorruptRows(LoopbackCluster::Address(0), 3);
  const std::vector<TokenId> tokens = test::SomeTokens(64, 9);
  ReadBatch(*source, tokens);
  ReadBatch(*source, tokens);
  const RowSourceStats stats = source->Stats();
  ASSERT_GT(stats.rows_read, stats.rows_verified);
  const std::string page = Page(*source);
  const auto expect = [&](const std::string& name, uint64_t value) {
    EXPECT_THAT(page, HasSubstr("\n" + name + " " + std::to_string(value) + "\n"));
  };
  expect("engram_client_batches_total", 2);
  expect("engram_client_tokens_total", 128);
  expect("engram_client_rows_asked_total", 128 * 8);
  expect("engram_client_rows_unique_total", stats.rows_unique);
  expect("engram_client_rows_from_cache_total", stats.rows_unique / 2);
  expect("engram_client_rows_verified_total", stats.rows_unique / 2);
  expect("engram_client_rows_corrupt_total", 3);
  expect("engram_client_rows_failed_total", 0);
  expect("engram_client_read_bytes_total", stats.rows_read * source->layout().row_stride());
  EXPECT_GE(stats.reads, 2u);
  expect("engram_client_reads_total", stats.reads);
  expect("engram_client_cache_rows", stats.rows_unique / 2);
  EXPECT_GT(stats.held.cache_rows_max, stats.held.cache_rows);
  EXPECT_LE(stats.held.cache_bytes, options.cache_bytes);
  // [buffers][layers][tokens][columns][row_bytes], in whole pages
  EXPECT_GE(stats.held.staging_bytes, 2u * 2 * 256 * 4 * source->layout().row_bytes());
  expect("engram_client_staging_bytes", stats.held.staging_bytes);
  expect("engram_client_shard_map_epoch{version=\"7\"}", 1);
  expect("engram_client_sessions{way=\"gather\"}", 2);
}

TEST(RowMetricsTest, EveryAwaitedLayerIsInItsHistograms) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  for (int i = 0; i < 3; ++i) ReadBatch(*source, {1, 2, 3});
  const RowSourceStats stats = source->Counts();
  const std::string page = Page(*source);
  const std::vector<int32_t>& layer_ids = source->hasher().spec().layer_ids;
  ASSERT_EQ(stats.layers.size(), layer_ids.size());
  for (size_t i = 0; i < layer_ids.size(); ++i) {
    const std::string layer = "{layer=\"" + std::to_string(layer_ids[i]) + "\"} ";
    EXPECT_TRUE(stats.layers[i].prefetch_us.empty()) << "samples belong to Stats() alone";
    EXPECT_THAT(page, HasSubstr("engram_client_tickets_total" + layer + "3\n"));
    EXPECT_THAT(page, HasSubstr("engram_client_tickets_late_total" + layer +
                                std::to_string(3 - stats.layers[i].batches_in_time) + "\n"));
    EXPECT_THAT(page, HasSubstr("engram_client_prefetch_seconds_count" + layer + "3\n"));
    EXPECT_THAT(page, HasSubstr("engram_client_window_seconds_count" + layer + "3\n"));
    EXPECT_GT(stats.layers[i].prefetch_times.sum_ns, 0u);
  }
  source->ResetStats();
  EXPECT_EQ(source->Counts().layers[0].prefetch_times.count(), 0u);
  EXPECT_GT(source->Counts().held.staging_bytes, 0u) << "is still there";
}

TEST(RowMetricsTest, NewerShardMapIsTold) {
  LoopbackCluster cluster(1);
  const auto source = cluster.Connect(cluster.Options());
  ReadBatch(*source, {1});
  cluster.maps->Set(cluster.Map(5));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (source->Counts().held.versions.at(0).epoch != Epoch(5) &&
         std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  EXPECT_THAT(Page(*source), HasSubstr("engram_client_shard_map_epoch{version=\"7\"} 5\n"));
}

}  // namespace
}  // namespace engram
