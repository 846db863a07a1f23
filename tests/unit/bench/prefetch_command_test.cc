// engram-bench prefetch as a user runs it, on small tables.
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram::bench {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(PrefetchCommandTest, SaysForEachLayerWhetherItsReadIsHidden) {
  const test::ScratchDir scratch;
  const auto profile = scratch.path() / "profile.json";
  // 20 ms before layer 1 and 40 before layer 2: time enough on any machine.
  std::ofstream(profile) << json{{"name", "slow"},
                                 {"source", "made up"},
                                 {"layers", 3},
                                 {"engram_layers", {1, 2}},
                                 {"layer_us", {{"1", 20000}, {"8", 20000}}}};
  const auto file = scratch.path() / "report.json";
  const auto ran = test::RunCommand({ENGRAM_BIN_DIR "/engram-bench",
                                     "prefetch",
                                     "--profile",
                                     profile.string(),
                                     "--bytes",
                                     "8MiB",
                                     "--decode",
                                     "2",
                                     "--prefill",
                                     "8",
                                     "--drafts",
                                     "1",
                                     "--accepted",
                                     "0",
                                     "--cancelled",
                                     "0.2",
                                     "--seconds",
                                     "0.1",
                                     "--json",
                                     file.string()},
                                    std::chrono::seconds(100));
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  std::ifstream in(file);
  const json report = json::parse(in);
  ASSERT_EQ(report.at("batches").size(), 2u);
  for (const json& batch : report.at("batches")) {
    EXPECT_GE(batch.at("steps"), 20);
    for (const char* layer : {"1", "2"}) {
      EXPECT_GT(batch.at("layers").at(layer).at("p50_us"), 0);
      EXPECT_GT(batch.at("layers").at(layer).at("hidden_fraction"), 0.5);
      EXPECT_GT(batch.at("layers").at(layer).at("window_p50_us"), 15'000);
    }
  }
  // Every draft is wrong, and some steps are cancelled as well.
  EXPECT_GE(report.at("batches").at(0).at("rows_wasted_percent"), 50);
  EXPECT_LT(report.at("batches").at(1).at("rows_wasted_percent"), 50);
}

// As a worker with continuous batching: the next step's prefill is asked for with each step.
TEST(PrefetchCommandTest, DecodeStepsMayReadThePrefillOfTheNextToo) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "report.json";
  const auto ran = test::RunCommand(
      {ENGRAM_BIN_DIR "/engram-bench", "prefetch", "--bytes", "8MiB", "--decode", "2", "--ahead",
       "30", "--no-prefill", "--seconds", "0.1", "--json", file.string()},
      std::chrono::seconds(100));
  ASSERT_EQ(ran.exit_status, 0) << ran.err;
  std::ifstream in(file);
  const json report = json::parse(in);
  ASSERT_EQ(report.at("batches").size(), 1u);
  const json& batch = report.at("batches").at(0);
  // Two layers' rows of 32 tokens come with every step, and none is for nothing.
  EXPECT_EQ(batch.at("rows_wasted_percent"), 0);
  for (const char* layer : {"1", "14"}) {
    EXPECT_GT(batch.at("layers").at(layer).at("waited_p50_us"), 0);
    EXPECT_LE(batch.at("layers").at(layer).at("waited_p50_us"),
              batch.at("layers").at(layer).at("waited_p99_us"));
  }
  EXPECT_EQ(report.at("settings").at("ahead"), 30);
}

TEST(PrefetchCommandTest, AnUnknownProfileIsSaid) {
  const auto ran = test::RunCommand(
      {ENGRAM_BIN_DIR "/engram-bench", "prefetch", "--profile", "v40"}, std::chrono::seconds(20));
  EXPECT_EQ(ran.exit_status, 1);
  EXPECT_THAT(ran.err, HasSubstr("neither a file nor one of"));
}

}  // namespace
}  // namespace engram::bench
