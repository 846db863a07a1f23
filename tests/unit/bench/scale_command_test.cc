// engram-bench scale as a user runs it, on small tables, and the files between it and its clients.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bench/scale_job.h"
#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

test::CommandOutput Scale(std::vector<std::string> arguments) {
  std::vector<std::string> command = {ENGRAM_BIN_DIR "/engram-bench", "scale"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::RunCommand(command, std::chrono::seconds(100));
}

#ifdef ENGRAM_SCALE_CLIENT
TEST(ScaleCommandTest, NodesClientsAndSizesStandInOneReport) {
  const test::ScratchDir scratch;
  const std::filesystem::path file = scratch.path() / "report.json";
  const auto ran = Scale({"--nodes", "1,2", "--clients", "1,2", "--grid-bytes", "8MiB", "--bytes",
                          "4MiB,16MiB", "--rows", "96", "--seconds", "0.05", "--repetitions", "1",
                          "--for-bytes", "1e12", "--json", file.string()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("What that amounts to"));
  std::ifstream in(file);
  const json report = json::parse(in);
  ASSERT_EQ(report.at("points").size(), 6u);
  for (const json& point : report.at("points")) {
    EXPECT_GT(point.at("rows_s").at("median"), 0);
    EXPECT_GT(point.at("client_us_per_row").at("median"), 0);
    EXPECT_GT(point.at("p99_us"), 0);
    // The tables' own pages, and what serving them took.
    EXPECT_GE(point.at("memory_per_row_byte"), 0.99);
    // Every batch of two tokens asks every node once.
    EXPECT_NEAR(point.at("reads_per_row"), point.at("nodes").get<double>() / 96, 1e-3) << point;
  }
  EXPECT_EQ(report.at("points").at(3).at("nodes"), 2);
  EXPECT_EQ(report.at("points").at(3).at("clients"), 2);
  EXPECT_EQ(report.at("points").at(5).at("bytes"), 16 << 20);
  EXPECT_EQ(report.at("needs").at("rows_s"), 48e6);
  EXPECT_EQ(report.at("plots").size(), 2u);
}

TEST(ScaleCommandTest, WhatAClientSaysIsTold) {
  const test::ScratchDir scratch;
  ScaleJob job;
  job.bytes = 4 << 20;
  job.batch_tokens = 1;
  job.seconds = 0.01;
  job.nodes = {{"127.0.0.1:1", 1}};
  ASSERT_TRUE(WriteJob(job, scratch.path() / "job").ok());
  const auto ran =
      test::RunCommand({ENGRAM_BIN_DIR "/engram-bench-scale-client",
                        (scratch.path() / "job").string(), (scratch.path() / "outcome").string()},
                       std::chrono::seconds(60));
  EXPECT_EQ(ran.exit_status, 1);
  EXPECT_THAT(ran.err, HasSubstr("client process 0"));
  EXPECT_THAT(ran.err, HasSubstr("127.0.0.1:1"));
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "outcome"));
}
#else
TEST(ScaleCommandTest, ABuildWithoutMpiSaysWhatToDo) {
  const auto ran = Scale({"--repetitions", "1"});
  EXPECT_EQ(ran.exit_status, 1);
  EXPECT_THAT(ran.err, HasSubstr("built without MPI; run deploy/install-deps"));
}
#endif

TEST(ScaleCommandTest, WhatCannotBeMeasuredIsSaid) {
  const auto broken_token = Scale({"--rows", "50"});
  EXPECT_EQ(broken_token.exit_status, 1);
  EXPECT_THAT(broken_token.err, HasSubstr("whole tokens of 48 rows"));
  EXPECT_NE(Scale({"--nodes", "0"}).exit_status, 0);
}

TEST(ScaleJobTest, JobAndOutcomeComeBackAsTheyWere) {
  const test::ScratchDir scratch;
  ScaleJob job;
  job.transport = "shm";
  job.way = "gather";
  job.io_threads = 3;
  job.bytes = 1ull << 33;
  job.batch_tokens = 256;
  job.seconds = 0.5;
  job.seed = 9;
  job.nodes = {{"127.0.0.1:7", 42}, {"[::1]:8", 43}};
  ASSERT_TRUE(WriteJob(job, scratch.path() / "job").ok());
  const auto read = ReadJob(scratch.path() / "job");
  ASSERT_TRUE(read.has_value()) << read.error().ToString();
  EXPECT_EQ(read->transport, "shm");
  EXPECT_EQ(read->way, "gather");
  EXPECT_EQ(read->io_threads, 3u);
  EXPECT_EQ(read->bytes, 1ull << 33);
  EXPECT_EQ(read->batch_tokens, 256u);
  EXPECT_EQ(read->seconds, 0.5);
  EXPECT_EQ(read->seed, 9u);
  ASSERT_EQ(read->nodes.size(), 2u);
  EXPECT_EQ(read->nodes[1].address, "[::1]:8");
  EXPECT_EQ(read->nodes[1].pid, 43);

  ScaleOutcome one;
  one.rows_s = 5;
  one.rows = 10;
  one.reads = 2;
  one.client_cpu_seconds = 1;
  one.node_cpu_seconds = 3;
  one.took.Add(std::chrono::microseconds(40));
  const auto other = ScaleOutcome::FromText(one.ToText());
  ASSERT_TRUE(other.has_value()) << other.error().ToString();
  one.Merge(*other);
  EXPECT_EQ(one.rows_s, 10);
  EXPECT_EQ(one.rows, 20u);
  EXPECT_EQ(one.reads, 4u);
  EXPECT_EQ(one.client_cpu_seconds, 2);
  EXPECT_EQ(one.node_cpu_seconds, 6);
  EXPECT_EQ(one.took.count(), 2u);
}

TEST(ScaleJobTest, OtherFilesAreRefused) {
  const test::ScratchDir scratch;
  EXPECT_FALSE(ReadJob(scratch.path() / "none").has_value());
  std::ofstream(scratch.path() / "job") << "{\"transport\": 7}";
  EXPECT_EQ(ReadJob(scratch.path() / "job").error().code(), StatusCode::kMalformed);
  EXPECT_EQ(ScaleOutcome::FromText("[]").error().code(), StatusCode::kMalformed);
  EXPECT_EQ(ScaleOutcome::FromText("").error().code(), StatusCode::kMalformed);
}

}  // namespace
}  // namespace engram::bench
