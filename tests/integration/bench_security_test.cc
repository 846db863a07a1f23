// engram-bench read and prefetch against a cluster under mutual TLS.
#include <chrono>
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

class BenchSecurityTest : public testing::Test {
 protected:
  void SetUp() override {
    ClusterOptions options;
    options.nodes = 2;
    options.certs = true;
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
  }
  // With the certificate of `holder`; none where it is empty.
  CommandOutput Bench(const std::string& question, const std::string& holder,
                      const std::vector<std::string>& arguments) {
    std::vector<std::string> command = {ENGRAM_BIN_DIR "/engram-bench",  question, "--coordinator",
                                        cluster_->coordinator_address(), "--json", file().string()};
    if (!holder.empty()) {
      command.insert(command.end(), {"--certs", (cluster_->certs() / holder).string()});
    }
    command.insert(command.end(), arguments.begin(), arguments.end());
    return RunCommand(command, std::chrono::seconds(120));
  }
  [[nodiscard]] std::filesystem::path file() const { return cluster_->scratch() / "bench.json"; }
  [[nodiscard]] json ReadReport() const {
    std::ifstream in(file());
    return json::parse(in);
  }

  std::unique_ptr<TestCluster> cluster_;
};

TEST_F(BenchSecurityTest, ReadShowsMemoryNodesASessionToken) {
  const auto refused = Bench("read", "reader", {"--rows", "1"});
  std::smatch whole;
  ASSERT_TRUE(std::regex_search(refused.err, whole, std::regex("whole tokens of ([0-9]+) rows")))
      << refused.err;
  const uint64_t rows = 16 * std::stoull(whole[1]);
  const auto ran = Bench(
      "read", "reader", {"--rows", std::to_string(rows), "--repetitions", "2", "--seconds", "0.1"});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("on 2 memory nodes"));
  EXPECT_GT(ReadReport().at("stack_rows_s"), 0);
}

TEST_F(BenchSecurityTest, PrefetchShowsMemoryNodesASessionToken) {
  const auto ran =
      Bench("prefetch", "reader", {"--decode", "4", "--prefill", "32", "--seconds", "0.2"});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  const json report = ReadReport();
  ASSERT_EQ(report.at("batches").size(), 2u);
  EXPECT_EQ(report.at("batches").at(0).at("layers").size(), 2u);
}

TEST_F(BenchSecurityTest, WithoutACertificateNothingIsRead) {
  const auto ran = Bench("read", "", {});
  EXPECT_EQ(ran.exit_status, 1) << ran.out;
  EXPECT_FALSE(std::filesystem::exists(file()));
}

}  // namespace
}  // namespace engram::test
