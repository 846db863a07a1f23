// engram-bench read as a user runs it, on small tables.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

test::CommandOutput Read(std::vector<std::string> arguments) {
  std::vector<std::string> command = {
      ENGRAM_BIN_DIR "/engram-bench", "read", "--bytes", "8MiB", "--repetitions", "1"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::RunCommand(command, std::chrono::seconds(60));
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

class ReadCommandTest : public ::testing::Test {
 protected:
  std::filesystem::path file() const { return scratch_.path() / "report.json"; }
  json ReadReport(std::string* text) const {
    std::ifstream in(file());
    text->assign(std::istreambuf_iterator<char>(in), {});
    return json::parse(*text);
  }
  test::ScratchDir scratch_;
};

TEST_F(ReadCommandTest, StackAndFloorStandInOneReport) {
  for (const char* transport : {"tcp", "shm"}) {
    const auto ran = Read({"--transport", transport, "--rows", "48,1536", "--seconds", "0.02",
                           "--json", file().string()});
    ASSERT_EQ(ran.exit_status, 0) << transport << ran.err;
    std::string text;
    const json report = ReadReport(&text);
    EXPECT_EQ(Count(text, "\"ratio\""), 1u);
    for (const char* key :
         {"stack_rows_s", "floor_rows_s", "ratio", "local_rows_s", "p50_us", "p99_us"}) {
      EXPECT_GT(report.at(key), 0) << key;
    }
    EXPECT_EQ(report.at("settings").at("floor"),
              std::string(transport) == "tcp" ? "gather" : "mapped");
    ASSERT_EQ(report.at("batches").size(), 2u);
    EXPECT_EQ(report.at("batches").at(1).at("rows"), 1536);
    EXPECT_EQ(report.at("batches").at(1).at("p50_us"), report.at("p50_us"));
  }
}

TEST_F(ReadCommandTest, AProfileTellsWhereTheTimeOfARowGoes) {
  const auto ran =
      Read({"--profile", "--rows", "1536", "--seconds", "0.3", "--json", file().string()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("Where the client's I/O threads are"));
  std::string text;
  const json report = ReadReport(&text);
  double together = 0;
  for (const auto& [stage, us] : report.at("batches").at(0).at("stage_us_per_row").items()) {
    EXPECT_GE(us, 0) << stage;
    together += us.get<double>();
  }
  // One I/O thread: its time of a row is the row's share of the wall clock.
  EXPECT_NEAR(together, 1e6 / report.at("stack_rows_s").get<double>(), 1e-3 * together);
  const json& stages = report.at("batches").at(0).at("stage_us_per_row");
  for (const char* stage : {"post", "wire", "verify", "scatter"}) {
    EXPECT_GT(stages.at(stage), 0) << stage;
  }
  // Planning alone is one look in three hundred: on a busy machine there may be none.
  EXPECT_GT(stages.at("hash").get<double>() + stages.at("plan").get<double>(), 0);
}

TEST_F(ReadCommandTest, ReplicasAreNodesOfWhichTheNearestIsRead) {
  const auto ran =
      Read({"--replicas", "2", "--rows", "1536", "--seconds", "0.02", "--json", file().string()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.err, HasSubstr("in each of 2 memory nodes"));
  std::string text;
  const json report = ReadReport(&text);
  EXPECT_EQ(report.at("settings").at("replicas"), 2);
  EXPECT_GT(report.at("stack_rows_s"), 0);
}

TEST_F(ReadCommandTest, AUsersOwnTokensRepeatTheirRows) {
  const std::filesystem::path ids = scratch_.path() / "ids.json";
  json list = json::array();
  for (int i = 0; i < 640; ++i) list.push_back(i % 10);
  std::ofstream(ids) << list;
  const auto ran = Read(
      {"--ids-file", ids.string(), "--rows", "1536", "--cache", "1MiB", "--json", file().string()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  std::string text;
  const json batch = ReadReport(&text).at("batches").at(0);
  EXPECT_GT(batch.at("rows_deduped"), 0.5);  // ten tokens in turn: 32 have at most 13 n-grams each
  EXPECT_GT(batch.at("rows_from_cache"), 0.0);
}

TEST_F(ReadCommandTest, WhatCannotBeMeasuredIsSaid) {
  const auto broken_token = Read({"--rows", "50"});
  EXPECT_EQ(broken_token.exit_status, 1);
  EXPECT_THAT(broken_token.err, HasSubstr("whole tokens of 48 rows"));
  std::ofstream(scratch_.path() / "short.json") << "[1, 2]";
  const auto short_stream =
      Read({"--ids-file", (scratch_.path() / "short.json").string(), "--rows", "1536"});
  EXPECT_THAT(short_stream.err, HasSubstr("fewer than the largest batch of 32"));
  const auto no_ids = Read({"--tokenizer", ENGRAM_TEST_DATA "/tiny_tokenizer.json"});
  EXPECT_THAT(no_ids.err, HasSubstr("--ids-file"));
}

}  // namespace
}  // namespace engram::bench
