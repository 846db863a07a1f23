// Rows that are damaged in the memory of real nodes while a client reads and compares every row:
// they are found, replaced and counted, and never delivered.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/integration/reading_client.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ScrubTest : public testing::TestWithParam<std::string> {
 protected:
  void StartCluster(int replicas, const std::string& scrub_rate) {
    ClusterOptions options;
    options.nodes = 2;
    options.replicas = replicas;
    if (GetParam() != "gather") options.transport = "auto";
    options.node_arguments = {"--scrub-rate", scrub_rate};
    options.coordinator_arguments = {"--heartbeat-ms", "200"};
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = std::move(*cluster);
  }
  void StartReading(int deadline_ms = 2000) {
    ReadingClient::Options reading;
    reading.deadline_ms = deadline_ms;
    reading.transport = GetParam() == "gather" ? "tcp" : "auto";
    reading.way = GetParam();
    auto client = ReadingClient::Create(*cluster_, reading);
    ASSERT_TRUE(client.has_value()) << client.error().ToString();
    client_ = std::move(*client);
    reader_ = std::thread([this] {
      while (!stop_.load()) {
        client_->Read(1, &tally_);
        batches_failed_.store(tally_.batches_failed);
      }
    });
  }
  void TearDown() override { StopReading(); }
  const ReadTally& StopReading() {
    stop_.store(true);
    if (reader_.joinable()) reader_.join();
    return tally_;
  }
  // The first so many rows of it.
  void DamageSlot(int node, uint32_t slot, uint32_t rows) {
    for (uint32_t row = 0; row < rows; ++row) {
      const HttpReply reply = HttpCall(cluster_->node_http(node), "POST",
                                       "/test/flip_byte?version=1&slot=" + std::to_string(slot) +
                                           "&row=" + std::to_string(row) + "&byte=17");
      ASSERT_EQ(reply.status, 200) << reply.body;
    }
  }
  // A node that holds the slot.
  int HolderOf(uint32_t slot) {
    const std::string wanted = std::to_string(slot);
    for (int i = 0; i < cluster_->node_count(); ++i) {
      // Who has the slot complains of the byte; who has not, of the slot (404).
      const HttpReply reply =
          HttpCall(cluster_->node_http(i), "POST",
                   "/test/flip_byte?version=1&slot=" + wanted + "&row=0&byte=100000");
      if (reply.status == 400) return i;
    }
    ADD_FAILURE() << "nobody holds slot " << slot;
    return 0;
  }
  nlohmann::json NodeStatus(int i) {
    const CommandOutput nodes = cluster_->Ctl({"nodes", "--json"});
    const auto json = nlohmann::json::parse(nodes.out, nullptr, false);
    for (const auto& node : json) {
      if (node.at("id") == "m" + std::to_string(i)) return node;
    }
    return {{"corrupt_rows_found", -1}, {"rows_repaired", -1}};
  }
  // Until the coordinator shows that the node found and repaired so many rows.
  void AwaitRepair(int node, uint64_t rows) {
    const auto until = std::chrono::steady_clock::now() + seconds(30);
    while (NodeStatus(node)["rows_repaired"] != rows) {
      ASSERT_LT(std::chrono::steady_clock::now(), until)
          << NodeStatus(node).dump() << cluster_->NodeLog(node);
      std::this_thread::sleep_for(milliseconds(50));
    }
    EXPECT_EQ(NodeStatus(node)["corrupt_rows_found"], rows);
    EXPECT_EQ(NodeStatus(node)["error"], "");
  }
  void ExpectEveryRowIsRight() {
    const CommandOutput verified =
        cluster_->Ctl({"verify", "--model", cluster_->model_dir().string(), "--all"});
    EXPECT_EQ(verified.exit_status, 0) << verified.out << verified.err;
  }
  void ExpectNoFailedAndNoWrongRow() {
    const ReadTally& tally = StopReading();
    EXPECT_EQ(tally.rows_wrong, 0u);
    EXPECT_EQ(tally.batches_failed, 0u)
        << (tally.failures.empty() ? "" : tally.failures[0].ToString());
    EXPECT_GT(tally.batches_ok, 20u);
  }

  std::unique_ptr<TestCluster> cluster_;
  std::unique_ptr<ReadingClient> client_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> batches_failed_{0};
  ReadTally tally_;  // the reader's, until it ended
  std::thread reader_;
};

TEST_P(ScrubTest, ScrubRepairsARowThatNobodyReadsFromTheOtherReplica) {
  StartCluster(2, "64MiB");
  ASSERT_NE(cluster_, nullptr);
  DamageSlot(0, 3, 1);
  AwaitRepair(0, 1);
  EXPECT_NE(cluster_->NodeLog(0).find("found by scrub"), std::string::npos);
  EXPECT_NE(cluster_->NodeLog(0).find("copied and checked 1 slots"), std::string::npos)
      << cluster_->NodeLog(0);
  const CommandOutput events = cluster_->Ctl({"events"});
  EXPECT_NE(events.out.find("node m0 found damaged rows"), std::string::npos) << events.out;
  const CommandOutput status = cluster_->Ctl({"status", "--json"});
  EXPECT_EQ(nlohmann::json::parse(status.out)["versions"][0]["damaged_slot_reports"], 0);
  ExpectEveryRowIsRight();
}

TEST_P(ScrubTest, ReadersNoticeNothingWhileDamageIsRepairedBehindThem) {
  StartCluster(2, "64MiB");
  ASSERT_NE(cluster_, nullptr);
  StartReading();
  ASSERT_NE(client_, nullptr);
  std::this_thread::sleep_for(milliseconds(300));
  // A row at a time: a scrub that comes by between two would find one, and replace both.
  for (int round = 1; round <= 8; ++round) {
    DamageSlot(1, static_cast<uint32_t>(round), 1);
    AwaitRepair(1, static_cast<uint64_t>(round));
  }
  std::this_thread::sleep_for(milliseconds(300));
  ExpectNoFailedAndNoWrongRow();
  ExpectEveryRowIsRight();
}

TEST_P(ScrubTest, AReadersReportIsCheckedAndRepairedWithoutScrub) {
  StartCluster(2, "0");
  ASSERT_NE(cluster_, nullptr);
  // On both nodes, each in another slot, so that some damaged row is met whoever is asked.
  DamageSlot(0, 3, 16);
  DamageSlot(1, 4, 16);
  StartReading();
  ASSERT_NE(client_, nullptr);
  AwaitRepair(0, 16);
  AwaitRepair(1, 16);
  ExpectNoFailedAndNoWrongRow();
  EXPECT_NE(cluster_->NodeLog(0).find("as a reader reported"), std::string::npos);
}

TEST_P(ScrubTest, WithOneReplicaDamagedRowsAreErrorsUntilTheCheckpointGaveThemBack) {
  StartCluster(1, "0");
  ASSERT_NE(cluster_, nullptr);
  const int node = HolderOf(3);
  ASSERT_EQ(HttpCall(cluster_->node_http(node), "POST", "/test/pause_loading?paused=1").status,
            200);
  DamageSlot(node, 3, 16);
  StartReading(200);
  ASSERT_NE(client_, nullptr);
  const auto until = std::chrono::steady_clock::now() + seconds(30);
  while (batches_failed_.load() == 0) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(NodeStatus(node)["rows_repaired"], 0);
  ASSERT_EQ(HttpCall(cluster_->node_http(node), "POST", "/test/pause_loading?paused=0").status,
            200);
  AwaitRepair(node, 16);
  const ReadTally& tally = StopReading();
  EXPECT_EQ(tally.rows_wrong, 0u);
  EXPECT_GT(tally.batches_failed, 0u);
  // A mapped reader looks at the old place until its next lease grant tells of a newer directory.
  const ReadTally after = client_->ReadUntilAllCome(50, seconds(10));
  EXPECT_EQ(after.rows_wrong, 0u);
  EXPECT_EQ(after.batches_failed, 0u)
      << (after.failures.empty() ? "" : after.failures[0].ToString());
  ExpectEveryRowIsRight();
}

INSTANTIATE_TEST_SUITE_P(Ways, ScrubTest, testing::Values("gather", "mapped"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace engram::test
