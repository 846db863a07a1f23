// engram-bench pressure as a user runs it, on a small table and with few clients.
#include <filesystem>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using ::testing::HasSubstr;

test::CommandOutput Pressure(std::vector<std::string> arguments) {
  std::vector<std::string> command = {ENGRAM_BIN_DIR "/engram-bench", "pressure"};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return test::RunCommand(command, std::chrono::seconds(100));
}

TEST(PressureCommandTest, EveryQuestionIsAnsweredInOneReport) {
  const test::ScratchDir scratch;
  const std::filesystem::path file = scratch.path() / "report.json";
  const auto ran = Pressure({"--bytes", "8MiB", "--crowd", "8", "--seconds", "0.3", "--repetitions",
                             "1", "--json", file.string()});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.out, HasSubstr("by turns (ours)"));
  EXPECT_THAT(ran.out, HasSubstr("that wait as they are told"));
  EXPECT_THAT(ran.out, HasSubstr("One node with 8 clients"));
  std::ifstream in(file);
  const auto report = nlohmann::json::parse(in);
  EXPECT_GT(report.at("fair_p99_ratio"), 0);
  EXPECT_GT(report.at("in_order_p99_ratio"), 0);
  EXPECT_GT(report.at("overload_ratio"), 0);
  EXPECT_GT(report.at("crowd_bytes_per_client"), 0);
  EXPECT_EQ(report.at("overload_silent_reads"), 0);
  EXPECT_GT(report.at("token_check_seconds"), 0);
  EXPECT_EQ(report.at("tables").size(), 4u);
}

TEST(PressureCommandTest, QuestionsCanBeLeftOut) {
  const auto ran = Pressure({"--bytes", "8MiB", "--greedy", "0", "--overload", "0", "--crowd", "4",
                             "--seconds", "0.1", "--repetitions", "1"});
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  EXPECT_THAT(ran.out, ::testing::Not(HasSubstr("greedy readers of one node")));
  EXPECT_THAT(ran.out, HasSubstr("One node with 4 clients"));
}

}  // namespace
}  // namespace engram::bench
