// Real processes whose slots move while a client reads and compares every row.
#include <atomic>
#include <chrono>
#include <future>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>

#include "tests/integration/reading_client.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;

class MovesTest : public testing::TestWithParam<std::string> {
 protected:
  void StartCluster(ClusterOptions options, const std::string& way) {
    if (way != "gather") options.transport = "auto";
    // Nodes are found lost soon, and slots go a few at a time: many epochs.
    options.coordinator_arguments = {"--heartbeat-ms",  "200",  "--down-after-ms", "1000",
                                     "--lost-after-ms", "2000", "--copies",        "200"};
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = std::move(*cluster);
    ReadingClient::Options reading;
    reading.transport = way == "gather" ? "tcp" : "auto";
    reading.way = way;
    auto client = ReadingClient::Create(*cluster_, reading);
    ASSERT_TRUE(client.has_value()) << client.error().ToString();
    client_ = std::move(*client);
    reader_ = std::thread([this] {
      while (!stop_.load()) client_->Read(1, &tally_);
    });
  }
  void TearDown() override { StopReading(); }
  // What was read until now, from first to last.
  const ReadTally& StopReading() {
    stop_.store(true);
    if (reader_.joinable()) reader_.join();
    return tally_;
  }
  void ExpectNoFailedAndNoWrongRow() {
    const ReadTally& tally = StopReading();
    EXPECT_EQ(tally.rows_wrong, 0u);
    EXPECT_EQ(tally.batches_failed, 0u)
        << (tally.failures.empty() ? "" : tally.failures[0].ToString());
    EXPECT_GT(tally.batches_ok, 20u);
    std::printf("longest batch %.1f ms\n", tally.longest_batch_ms);
    EXPECT_EQ(client_->remote().Stats().rows_wrong, 0u);
  }
  nlohmann::json NodeStatus(int i) {
    const CommandOutput nodes = cluster_->Ctl({"nodes", "--json"});
    const auto json = nlohmann::json::parse(nodes.out, nullptr, false);
    for (const auto& node : json) {
      if (node.at("id") == "m" + std::to_string(i)) return node;
    }
    ADD_FAILURE() << nodes.out << nodes.err;
    return {{"assigned_slots", -1}};
  }
  void Settle() {
    const Status settled = cluster_->WaitSettled();
    ASSERT_TRUE(settled.ok()) << settled.ToString();
  }

  std::unique_ptr<TestCluster> cluster_;
  std::unique_ptr<ReadingClient> client_;
  std::atomic<bool> stop_{false};
  ReadTally tally_;  // the reader's, until it ended
  std::thread reader_;
};

TEST_P(MovesTest, NoReadFailsWhileANodeJoinsAndAnotherIsDrained) {
  StartCluster({}, GetParam());
  ASSERT_NE(client_, nullptr);
  const Status added = cluster_->AddNode();
  ASSERT_TRUE(added.ok()) << added.ToString();
  Settle();
  EXPECT_GT(NodeStatus(3)["assigned_slots"], 0);
  const CommandOutput drained = cluster_->Ctl({"drain", "m0", "--wait", "--wait-timeout-s", "60"});
  ASSERT_EQ(drained.exit_status, 0) << drained.out << drained.err;
  EXPECT_EQ(NodeStatus(0)["assigned_slots"], 0);
  cluster_->node(0).Stop(SIGTERM);
  std::this_thread::sleep_for(milliseconds(300));
  ExpectNoFailedAndNoWrongRow();
  const CommandOutput verified =
      cluster_->Ctl({"verify", "--model", cluster_->model_dir().string(), "--all"});
  EXPECT_EQ(verified.exit_status, 0) << verified.out << verified.err;
}

TEST_P(MovesTest, WithTwoReplicasAKilledNodeCostsNoReadAndIsReplaced) {
  StartCluster({.nodes = 4, .replicas = 2}, GetParam());
  ASSERT_NE(client_, nullptr);
  std::this_thread::sleep_for(milliseconds(300));
  cluster_->node(1).Stop(SIGKILL);
  // Its slots are copied from their other replicas once it is lost.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!NodeStatus(1).value("lost", false) && std::chrono::steady_clock::now() < until) {
    std::this_thread::sleep_for(milliseconds(100));
  }
  Settle();
  EXPECT_EQ(NodeStatus(1)["assigned_slots"], 0);
  ExpectNoFailedAndNoWrongRow();
  const CommandOutput removed = cluster_->Ctl({"remove-node", "m1"});
  EXPECT_EQ(removed.exit_status, 0) << removed.out << removed.err;
}

TEST_P(MovesTest, ScaleInDrainsTheLastNodesAndForgetsThem) {
  StartCluster({.nodes = 4, .replicas = 2}, GetParam());
  ASSERT_NE(client_, nullptr);
  const CommandOutput refused = cluster_->Ctl({"scale-in", "--keep", "m=1", "--wait"});
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_NE(refused.err.find("nothing was drained"), std::string::npos) << refused.err;
  EXPECT_FALSE(NodeStatus(3).value("draining", true));
  // Cut short, then run again: as a hook that is.
  const CommandOutput early =
      cluster_->Ctl({"scale-in", "--keep", "m=3", "--wait", "--wait-timeout-s", "0.001"});
  EXPECT_EQ(early.exit_status, 1);
  EXPECT_NE(early.err.find("run this again"), std::string::npos) << early.err;
  const CommandOutput drained =
      cluster_->Ctl({"scale-in", "--keep", "m=3", "--wait", "--wait-timeout-s", "60", "--json"});
  ASSERT_EQ(drained.exit_status, 0) << drained.err;
  EXPECT_EQ(nlohmann::json::parse(drained.out)["drained"], nlohmann::json({"m3"}));
  EXPECT_EQ(NodeStatus(3)["assigned_slots"], 0);
  cluster_->node(3).Stop(SIGTERM);
  // An upgrade may replace the coordinator just then.
  cluster_->coordinator().Stop(SIGTERM);
  auto forgetting = std::async(std::launch::async, [this] {
    return cluster_->Ctl({"scale-in", "--keep", "m=3", "--forget", "--wait-timeout-s", "30"});
  });
  std::this_thread::sleep_for(milliseconds(500));
  const Status restarted = cluster_->RestartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted.ToString();
  const CommandOutput forgotten = forgetting.get();
  EXPECT_EQ(forgotten.exit_status, 0) << forgotten.err;
  EXPECT_EQ(cluster_->Ctl({"nodes"}).out.find("m3"), std::string::npos);
  // One that was drained and stays takes slots again.
  EXPECT_EQ(cluster_->Ctl({"drain", "m2"}).exit_status, 0);
  const CommandOutput same = cluster_->Ctl({"scale-in", "--keep", "m=3", "--wait"});
  EXPECT_EQ(same.exit_status, 0) << same.err;
  EXPECT_FALSE(NodeStatus(2).value("draining", true));
  ExpectNoFailedAndNoWrongRow();
}

TEST_P(MovesTest, ACoordinatorKilledWhileSlotsMoveGoesOnWithThem) {
  StartCluster({}, GetParam());
  ASSERT_NE(client_, nullptr);
  const Status added = cluster_->AddNode();
  ASSERT_TRUE(added.ok()) << added.ToString();
  // It is known, and slots are on their way to it.
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (cluster_->Ctl({"nodes"}).out.find("m3") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), until);
    std::this_thread::sleep_for(milliseconds(10));
  }
  cluster_->coordinator().Stop(SIGKILL);
  std::this_thread::sleep_for(milliseconds(300));
  const Status restarted = cluster_->RestartCoordinator();
  ASSERT_TRUE(restarted.ok()) << restarted.ToString();
  Settle();
  EXPECT_GT(NodeStatus(3)["assigned_slots"], 0);
  ExpectNoFailedAndNoWrongRow();
}

INSTANTIATE_TEST_SUITE_P(Ways, MovesTest, testing::Values("gather", "mapped"),
                         [](const auto& parameter) { return parameter.param; });

TEST(EngramctlMovesTest, PlanSlotsVersionsAndEvents) {
  auto started = TestCluster::Start({});
  ASSERT_TRUE(started.has_value()) << started.error().ToString();
  TestCluster& cluster = **started;
  const CommandOutput plan = cluster.Ctl({"plan", "--drain", "m1", "--json"});
  ASSERT_EQ(plan.exit_status, 0) << plan.err;
  const auto planned = nlohmann::json::parse(plan.out)["versions"][0];
  EXPECT_GT(planned["moves"], 0);
  EXPECT_EQ(planned["nodes"][1]["bytes_after"], 0);
  const CommandOutput slots = cluster.Ctl({"slots", "--node", "m1", "--json"});
  ASSERT_EQ(slots.exit_status, 0) << slots.err;
  EXPECT_EQ(nlohmann::json::parse(slots.out)["slots"].size(), planned["moves"]);

  EXPECT_EQ(cluster.Ctl({"rollback"}).exit_status, 1);
  const CommandOutput created = cluster.Ctl(
      {"create-version", "--model", cluster.model_dir().string(), "--not-current", "--wait"});
  ASSERT_EQ(created.exit_status, 0) << created.err;
  const CommandOutput first =
      cluster.Ctl({"create-version", "--model", cluster.model_dir().string(), "--first", "--json"});
  EXPECT_EQ(first.exit_status, 0) << first.err;
  EXPECT_TRUE(nlohmann::json::parse(first.out)["version"].is_null()) << first.out;
  EXPECT_EQ(cluster.Ctl({"switch", "2"}).exit_status, 0);
  EXPECT_EQ(cluster.Ctl({"drop-version", "2"}).exit_status, 1);  // it is current
  EXPECT_EQ(cluster.Ctl({"rollback"}).exit_status, 0);
  EXPECT_EQ(cluster.Ctl({"drop-version", "2"}).exit_status, 0);
  EXPECT_EQ(cluster.Ctl({"drain", "ghost"}).exit_status, 1);
  EXPECT_EQ(cluster.Ctl({"drain"}).exit_status, 2);
  const CommandOutput events = cluster.Ctl({"events"});
  EXPECT_NE(events.out.find("version 2 is dropped"), std::string::npos) << events.out << events.err;
}

}  // namespace
}  // namespace engram::test
