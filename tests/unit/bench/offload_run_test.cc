// The comparisons here are CompareReport's own, as the worker writes them.
#include "bench/offload_run.h"

#include <cmath>
#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/child_process.h"
#include "tests/unit/bench/comparison_json.h"

namespace engram::bench {
namespace {

using nlohmann::json;

TEST(OffloadRunTest, HasWhatCompareWrote) {
  const auto run = ParseOffloadRun(ComparisonJson({.concurrency = 8}).dump());
  ASSERT_TRUE(run.has_value()) << run.error().ToString();
  EXPECT_EQ(run->shape, "small");
  EXPECT_EQ(run->way, "gather over tcp");
  EXPECT_EQ(run->concurrency, 8);
  EXPECT_EQ(run->pairs, 3);
  EXPECT_DOUBLE_EQ(run->ratio, 0.5);
  EXPECT_DOUBLE_EQ(run->ratio_low, 0.4);
  EXPECT_DOUBLE_EQ(run->ratio_high, 0.8);
  EXPECT_DOUBLE_EQ(run->ratio_of_off(), 0.25);
  const auto& remote = run->side(OffloadSide::kRemote);
  EXPECT_DOUBLE_EQ(remote->tok_s, 2);
  EXPECT_EQ(remote->tok_s_runs.size(), 3u);
  EXPECT_DOUBLE_EQ(remote->ttft_p50_s, 0.5);
  EXPECT_DOUBLE_EQ(remote->tpot_p50_s, 0.25);
  EXPECT_FALSE(run->side(OffloadSide::kDevice).has_value());
  EXPECT_TRUE(std::isnan(run->ratio_of_device));
  ASSERT_EQ(run->layers.size(), 2u);
  EXPECT_EQ(run->layers[0].id, "2");
  EXPECT_EQ(run->layers[1].id, "14");
  EXPECT_DOUBLE_EQ(run->layers[0].stall_s, 0.0025);
  EXPECT_DOUBLE_EQ(run->layers[0].in_time, 0.75);
  EXPECT_DOUBLE_EQ(run->layers[0].read_p50_s, 25e-6);
  EXPECT_DOUBLE_EQ(run->layers_in_process[0].stall_s, 0);
  EXPECT_EQ(run->rows_verified, 48);
  EXPECT_EQ(run->rows_wrong, 0);
  EXPECT_TRUE(run->identical_tokens);
}

TEST(OffloadRunTest, SaysWaySpinAndWhatWasNotRun) {
  json comparison = ComparisonJson({.off_runs = 0});
  comparison["io_spin_us"] = 10000;
  const auto run = ParseOffloadRun(comparison.dump());
  ASSERT_TRUE(run.has_value()) << run.error().ToString();
  EXPECT_EQ(run->way, "gather over tcp, spin 10,000 us");
  EXPECT_FALSE(run->side(OffloadSide::kOff).has_value());
  EXPECT_TRUE(std::isnan(run->ratio_of_off()));
}

TEST(OffloadRunTest, HasTablesInGpuMemoryWhereTheyWereCompared) {
  const auto run = ParseOffloadRun(WithDevice(ComparisonJson({})).dump());
  ASSERT_TRUE(run.has_value()) << run.error().ToString();
  ASSERT_TRUE(run->side(OffloadSide::kDevice).has_value());
  EXPECT_DOUBLE_EQ(run->side(OffloadSide::kDevice)->tok_s, 8);
  EXPECT_DOUBLE_EQ(run->ratio_of_device, 0.25);
}

// `change` spoils a good comparison; the error must say `wanted` and what to do.
template <typename Change>
void ExpectRefused(const std::string& wanted, const Change& change) {
  json comparison = ComparisonJson({});
  change(comparison);
  const auto run = ParseOffloadRun(comparison.dump());
  ASSERT_FALSE(run.has_value()) << wanted;
  EXPECT_EQ(run.error().code(), StatusCode::kMalformed);
  for (const std::string& part : {wanted, std::string("leave this file out")}) {
    EXPECT_NE(run.error().message().find(part), std::string::npos) << run.error().message();
  }
}

TEST(OffloadRunTest, WhatIsNoComparisonIsRefusedNamingTheMember) {
  ExpectRefused("it is no object", [](json& run) { run = json::array(); });
  ExpectRefused("model is missing", [](json& run) { run = {{"benchmark", "hash"}}; });
  ExpectRefused("way is no text", [](json& run) { run["way"] = 3; });
  ExpectRefused("ratio_median is missing", [](json& run) { run.erase("ratio_median"); });
  ExpectRefused("ratio_median is no number", [](json& run) { run["ratio_median"] = nullptr; });
  ExpectRefused("ratio_ci95 has not two", [](json& run) { run["ratio_ci95"] = {1}; });
  ExpectRefused("identical_tokens is neither", [](json& run) { run["identical_tokens"] = 1; });
  ExpectRefused("tok_s_remote_runs is no array", [](json& run) { run["tok_s_remote_runs"] = 1; });
  ExpectRefused("tok_s_local_runs is no array", [](json& run) { run["tok_s_local_runs"] = {""}; });
  ExpectRefused("tok_s_off_runs is no array", [](json& run) { run["tok_s_off_runs"] = {nullptr}; });
  ExpectRefused("in process has no runs",
                [](json& run) { run["tok_s_local_runs"] = json::array(); });
  ExpectRefused("latency_off: ttft_p99_ms is missing",
                [](json& run) { run["latency_off"].erase("ttft_p99_ms"); });
  ExpectRefused("latency_off: it is no object", [](json& run) { run["latency_off"] = 1; });
  ExpectRefused("layers is no object", [](json& run) { run["layers"] = {1}; });
  ExpectRefused("layers.14: batches is missing",
                [](json& run) { run["layers"]["14"].erase("batches"); });
  ExpectRefused("local: layers is missing", [](json& run) { run["local"].erase("layers"); });
  ExpectRefused("of different models", [](json& run) { run["local"]["layers"].erase("14"); });
  ExpectRefused("of different models", [](json& run) {
    run["local"]["layers"]["15"] = run["local"]["layers"]["14"];
    run["local"]["layers"].erase("14");
  });
}

TEST(OffloadRunTest, AFileIsNamedAndItsFolderIsTheSetting) {
  const test::ScratchDir scratch;
  const auto folder = scratch.path() / "decode";
  std::filesystem::create_directory(folder);
  const std::string text = ComparisonJson({}).dump();
  std::ofstream(folder / "whole.json") << text;
  const auto run = ReadOffloadRun(folder / "whole.json");
  ASSERT_TRUE(run.has_value()) << run.error().ToString();
  EXPECT_EQ(run->setting, "decode");

  std::ofstream(folder / "torn.json") << text.substr(0, text.size() / 2);
  const auto torn = ReadOffloadRun(folder / "torn.json");
  ASSERT_FALSE(torn.has_value());
  for (const char* part : {"torn.json: is not JSON, or only a part", "leave this file out"}) {
    EXPECT_NE(torn.error().message().find(part), std::string::npos) << torn.error().message();
  }
  EXPECT_FALSE(ReadOffloadRuns(scratch.path()).has_value());  // because of that one
  EXPECT_EQ(ReadOffloadRun(folder / "absent.json").error().code(), StatusCode::kNotFound);
}

TEST(OffloadRunTest, RunsOfAFolderAreSortedAndOtherFilesLeftAlone) {
  const test::ScratchDir scratch;
  for (const char* setting : {"v41", "decode"}) {
    std::filesystem::create_directory(scratch.path() / setting);
    for (const int concurrency : {32, 4}) {
      std::ofstream(scratch.path() / setting / (std::to_string(concurrency) + ".json"))
          << ComparisonJson({.concurrency = static_cast<double>(concurrency)});
    }
  }
  std::ofstream(scratch.path() / "offload.json") << "the report";
  std::ofstream(scratch.path() / "v41" / "worker.log") << "a log";
  const auto runs = ReadOffloadRuns(scratch.path());
  ASSERT_TRUE(runs.has_value()) << runs.error().ToString();
  std::vector<std::string> order;
  for (const OffloadRun& run : *runs) {
    order.push_back(run.setting + " " + std::to_string(static_cast<int>(run.concurrency)));
  }
  EXPECT_EQ(order, (std::vector<std::string>{"decode 4", "decode 32", "v41 4", "v41 32"}));

  const auto none = ReadOffloadRuns(scratch.path() / "decode");
  ASSERT_FALSE(none.has_value());
  EXPECT_NE(none.error().message().find("decode has no SETTING/*.json"), std::string::npos);
}

}  // namespace
}  // namespace engram::bench
