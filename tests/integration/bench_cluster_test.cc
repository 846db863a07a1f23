// engram-bench read and prefetch against a cluster that is there.
#include <filesystem>
#include <fstream>
#include <regex>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class BenchClusterTest : public testing::Test {
 protected:
  void SetUp() override {
    ClusterOptions options;
    options.replicas = 2;
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
  }
  CommandOutput Bench(const std::string& question, const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {ENGRAM_BIN_DIR "/engram-bench",  question, "--coordinator",
                                        cluster_->coordinator_address(), "--json", file().string()};
    command.insert(command.end(), arguments.begin(), arguments.end());
    return RunCommand(command, std::chrono::seconds(120));
  }
  [[nodiscard]] std::filesystem::path file() const { return cluster_->scratch() / "bench.json"; }
  [[nodiscard]] json ReadReport() const {
    std::ifstream in(file());
    return json::parse(in);
  }
  // Of the cluster's model.
  uint32_t RowsPerToken() {
    const auto refused = Bench("read", {"--rows", "1"});
    EXPECT_EQ(refused.exit_status, 1);
    std::smatch rows;
    EXPECT_TRUE(std::regex_search(refused.err, rows, std::regex("whole tokens of ([0-9]+) rows")))
        << refused.err;
    return rows.empty() ? 1 : static_cast<uint32_t>(std::stoul(rows[1]));
  }

  std::unique_ptr<TestCluster> cluster_;
};

TEST_F(BenchClusterTest, ReadsRowsOfTheClustersOwnModel) {
  const uint32_t rows = 16 * RowsPerToken();
  const auto ran = Bench("read", {"--rows", std::to_string(rows), "--repetitions", "2", "--seconds",
                                  "0.1", "--profile"});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("on 3 memory nodes"));
  const json report = ReadReport();
  EXPECT_GT(report.at("stack_rows_s"), 0);
  EXPECT_GT(report.at("p50_us"), 0);
  EXPECT_FALSE(report.contains("ratio")) << "no floor was measured";
  EXPECT_EQ(report.at("settings").at("coordinator"), cluster_->coordinator_address());
  EXPECT_FALSE(report.at("batches").at(0).contains("floor"));
  EXPECT_GT(report.at("batches").at(0).at("stage_us_per_row").at("verify"), 0);
}

TEST_F(BenchClusterTest, GoesThroughAModelsLayers) {
  const auto ran = Bench("prefetch", {"--decode", "4", "--prefill", "32", "--seconds", "0.2"});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  const json report = ReadReport();
  ASSERT_EQ(report.at("batches").size(), 2u);
  EXPECT_EQ(report.at("batches").at(0).at("layers").size(), 2u);
  EXPECT_EQ(report.at("settings").at("coordinator"), cluster_->coordinator_address());
}

TEST_F(BenchClusterTest, WhatDoesNotGoTogetherIsSaid) {
  const auto own_tables = Bench("read", {"--bytes", "1GiB"});
  EXPECT_NE(own_tables.exit_status, 0);
  EXPECT_THAT(own_tables.err, HasSubstr("--bytes"));
  const auto no_address = RunCommand(
      {ENGRAM_BIN_DIR "/engram-bench", "read", "--coordinator", "here"}, std::chrono::seconds(120));
  EXPECT_EQ(no_address.exit_status, 1);
  EXPECT_THAT(no_address.err, HasSubstr("'here' is not an address"));
  const std::filesystem::path ids = cluster_->scratch() / "ids.json";
  std::ofstream(ids) << "[1, 2, 1000000]";
  const auto other_ids =
      Bench("prefetch", {"--decode", "1", "--prefill", "2", "--ids-file", ids.string()});
  EXPECT_EQ(other_ids.exit_status, 1);
  EXPECT_THAT(other_ids.err, HasSubstr("give the --tokenizer of that model"));
}

}  // namespace
}  // namespace engram::test
