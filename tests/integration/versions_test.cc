// Real processes: clients that name no version follow the current one, batch by batch.
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include <gtest/gtest.h>

#include "tests/integration/reading_client.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

class VersionsTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { Start({}); }
  void Start(ClusterOptions options) {
    StopReading();
    client_ = nullptr;
    tally_ = {};
    if (GetParam() == "mapped") options.transport = "auto";
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
    second_model_ = cluster_->scratch() / "second";
    const Status made =
        MakeTinyModel(second_model_, options.variant, options.base_rows, /*seed=*/77);
    ASSERT_TRUE(made.ok()) << made.ToString();
    ReadingClient::Options reading;
    reading.transport = GetParam() == "mapped" ? "auto" : "tcp";
    reading.way = GetParam();
    reading.other_models = {second_model_};
    auto client = ReadingClient::Create(*cluster_, reading);
    ASSERT_TRUE(client.has_value()) << client.error().ToString();
    client_ = *std::move(client);
    stop_.store(false);
    reader_ = std::thread([this] {
      while (!stop_.load()) {
        client_->Read(1, &tally_);
        for (size_t i = 0; i < tally_.batches_of.size(); ++i) read_of_[i] = tally_.batches_of[i];
      }
    });
  }
  void TearDown() override { StopReading(); }
  void StopReading() {
    stop_.store(true);
    if (reader_.joinable()) reader_.join();
  }
  void Expect(const std::vector<std::string>& arguments, int exit_status = 0) {
    const CommandOutput output = cluster_->Ctl(arguments);
    EXPECT_EQ(output.exit_status, exit_status) << arguments[0] << ": " << output.out << output.err;
  }
  // Batches of this checkpoint come, and only of it in the end.
  bool IsRead(size_t model) {
    const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (std::chrono::steady_clock::now() < until) {
      const uint64_t other = read_of_[1 - model];
      const uint64_t before = read_of_[model];
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      if (read_of_[1 - model] == other && read_of_[model] > before) return true;
    }
    return false;
  }

  std::unique_ptr<TestCluster> cluster_;
  std::filesystem::path second_model_;
  std::unique_ptr<ReadingClient> client_;
  std::atomic<bool> stop_{false};
  std::atomic<uint64_t> read_of_[2] = {};
  ReadTally tally_;  // the reader's, until it ended
  std::thread reader_;
};

TEST_P(VersionsTest, ASwitchIsSeenByARunningClientAndNoBatchIsOfTwoVersions) {
  EXPECT_TRUE(IsRead(0));
  Expect({"create-version", "--model", second_model_.string(), "--not-current", "--wait"});
  EXPECT_TRUE(IsRead(0));
  Expect({"switch", "2"});
  EXPECT_TRUE(IsRead(1));
  Expect({"rollback"});
  EXPECT_TRUE(IsRead(0));
  Expect({"switch", "2"});
  EXPECT_TRUE(IsRead(1));
  Expect({"drop-version", "1"});
  EXPECT_TRUE(IsRead(1));
  // From the second one's directory too, now that the first is gone.
  Expect({"create-version", "--model", cluster_->model_dir().string(), "--wait"});
  EXPECT_TRUE(IsRead(0));
  StopReading();
  EXPECT_EQ(tally_.batches_failed, 0u)
      << (tally_.failures.empty() ? "" : tally_.failures[0].ToString());
  EXPECT_EQ(tally_.rows_wrong, 0u);
  EXPECT_GT(tally_.batches_ok, 50u);
}

TEST_P(VersionsTest, ADroppedVersionIsServedUntilItsReadersHaveLeftIt) {
  EXPECT_TRUE(IsRead(0));
  // The reader may not have heard of a switch when what it reads is dropped.
  Expect({"create-version", "--model", second_model_.string(), "--not-current", "--wait"});
  Expect({"switch", "2"});
  Expect({"drop-version", "1"});
  EXPECT_TRUE(IsRead(1));
  Expect({"create-version", "--model", cluster_->model_dir().string(), "--not-current", "--wait"});
  Expect({"switch", "3"});
  Expect({"rollback"});
  Expect({"drop-version", "3"});
  EXPECT_TRUE(IsRead(1));
  StopReading();
  EXPECT_EQ(tally_.batches_failed, 0u)
      << (tally_.failures.empty() ? "" : tally_.failures[0].ToString());
  EXPECT_EQ(tally_.rows_wrong, 0u);
}

TEST_P(VersionsTest, WithoutMemoryForBothTheNewOneTakesThePlaceOfOneReplica) {
  // 24.6 MiB of tables; three nodes have memory for two and a half times that.
  Start({.replicas = 2, .node_memory = "21MiB"});
  EXPECT_TRUE(IsRead(0));
  const std::vector<std::string> create = {
      "create-version", "--model", second_model_.string(), "--replicas", "2",
      "--not-current",  "--wait",  "--wait-timeout-s",     "60"};
  const CommandOutput refused = cluster_->Ctl(create);
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_NE(refused.err.find("--take-replica"), std::string::npos) << refused.err;
  std::vector<std::string> taking = create;
  taking.emplace_back("--take-replica");
  const CommandOutput unconfirmed = cluster_->Ctl(taking);  // its standard input is no terminal
  EXPECT_EQ(unconfirmed.exit_status, 1);
  EXPECT_NE(unconfirmed.err.find("version 1 would keep 1 replica"), std::string::npos)
      << unconfirmed.err;
  EXPECT_NE(unconfirmed.err.find("--yes"), std::string::npos) << unconfirmed.err;
  taking.emplace_back("--yes");
  Expect(taking);
  EXPECT_TRUE(IsRead(0));
  Expect({"switch", "2"});
  EXPECT_TRUE(IsRead(1));
  Expect({"drop-version", "1"});
  const Status settled = cluster_->WaitSettled();  // with both replicas
  EXPECT_TRUE(settled.ok()) << settled.ToString();
  EXPECT_NE(cluster_->Ctl({"status", "--json"}).out.find("\"replicas_wanted\": 2"),
            std::string::npos);
  EXPECT_TRUE(IsRead(1));
  StopReading();
  EXPECT_EQ(tally_.batches_failed, 0u)
      << (tally_.failures.empty() ? "" : tally_.failures[0].ToString());
  EXPECT_EQ(tally_.rows_wrong, 0u);
}

INSTANTIATE_TEST_SUITE_P(Ways, VersionsTest, testing::Values("gather", "mapped"),
                         [](const auto& parameter) { return parameter.param; });

}  // namespace
}  // namespace engram::test
