// Prompts, runs, comparisons and their reports.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "model_worker/batch_run.h"
#include "model_worker/compare.h"
#include "model_worker/prompts.h"
#include "model_worker/run_report.h"
#include "tests/support/child_process.h"
#include "tests/unit/model_worker/engine_fakes.h"

namespace engram {
namespace {

TEST(PromptsTest, LinesAndJsonArraysAreRead) {
  EXPECT_EQ(*ParsePrompts("one\r\n\ntwo words\nlast", "p"),
            (std::vector<std::string>{"one", "two words", "last"}));
  EXPECT_EQ(*ParsePrompts(R"(["a\nb", "c"])", "p"), (std::vector<std::string>{"a\nb", "c"}));
}

TEST(PromptsTest, FaultsAreNamed) {
  EXPECT_EQ(ParsePrompts("\n\n", "p.txt").error().code(), StatusCode::kMalformed);
  const auto bad = ParsePrompts(R"(["a", 3])", "p.json");
  EXPECT_EQ(bad.error().code(), StatusCode::kMalformed);
  EXPECT_NE(bad.error().message().find("element 1"), std::string::npos);
  EXPECT_EQ(ParsePrompts("[1,", "p.json").error().code(), StatusCode::kMalformed);
  const auto absent = ReadPrompts("/nonexistent/prompts");
  EXPECT_EQ(absent.error().code(), StatusCode::kNotFound);
  EXPECT_NE(absent.error().message().find("/nonexistent/prompts"), std::string::npos);
}

constexpr int32_t kVocabulary = 97;

class RunTest : public ::testing::Test {
 protected:
  std::unique_ptr<Engine> MakeEngine(RowSource* rows) {
    Engine::Options options;
    options.queue_requests_max = 100;
    auto engine = Engine::Create(&backend_, rows, options);
    EXPECT_TRUE(engine.has_value());
    return *std::move(engine);
  }

  FakeBackend backend_{{4, 128, 32}, kVocabulary, 2};
  FakeRowSource remote_{2, 32, 4};
  FakeRowSource local_{2, 32, 4};
  FakeRowSource device_{2, 32, 4};
  const std::vector<std::vector<TokenId>> prompts_ = {{1, 2, 3}, {4}, {5, 6, 7, 8}, {9, 1}, {2}};
};

TEST_F(RunTest, BatchRunCountsTokens) {
  const auto engine = MakeEngine(nullptr);
  BatchRunOptions options;
  options.tokens_max = 7;
  for (int repeat = 0; repeat < 2; ++repeat) {
    const auto run = RunBatch(engine.get(), prompts_, options);
    ASSERT_TRUE(run.has_value());
    EXPECT_EQ(run->prompt_tokens, 11u);
    EXPECT_EQ(run->generated_tokens, 35u);
    EXPECT_GT(run->tok_s(), 0.0);
    EXPECT_TRUE(run->FirstFailure().ok());
    ASSERT_EQ(run->times.size(), prompts_.size());
    for (size_t i = 0; i < prompts_.size(); ++i) {
      EXPECT_EQ(run->results[i].tokens, backend_.Expected(prompts_[i], 7, false));
      EXPECT_EQ(run->times[i].tokens, 7u);
      EXPECT_GT(run->times[i].ttft_s(), 0.0);
      EXPECT_GT(run->times[i].last_token_s, run->times[i].first_token_s);
      EXPECT_LE(run->times[i].last_token_s, run->wall_s);
    }
  }
}

TEST_F(RunTest, BatchRunNamesTheFaultyPrompt) {
  const auto engine = MakeEngine(nullptr);
  auto prompts = prompts_;
  prompts[2] = {kVocabulary};
  const auto run = RunBatch(engine.get(), prompts, BatchRunOptions());
  ASSERT_FALSE(run.has_value());
  EXPECT_NE(run.error().message().find("prompt 3"), std::string::npos);
}

// The fake rows are the same on all sides, so the tokens are; the time they take is not compared.
TEST_F(RunTest, CompareInterleavesAndComparesTokens) {
  const auto remote = MakeEngine(&remote_);
  const auto local = MakeEngine(&local_);
  const auto device = MakeEngine(&device_);
  const auto off = MakeEngine(nullptr);
  CompareOptions options;
  options.pairs = 4;
  options.off_runs = 2;
  options.batch.tokens_max = 5;
  backend_.sources = {&remote_, &local_, &device_};
  std::vector<std::string> order;
  const auto progress = [&](const std::string& line) {
    order.push_back(line.substr(10, line.find(' ', 10) - 10));
  };
  CompareSides sides = {
      {remote.get(), &remote_}, {local.get(), &local_}, {off.get(), nullptr}, std::nullopt};
  const auto result = Compare(sides, prompts_, options, progress);
  ASSERT_TRUE(result.has_value()) << result.error().ToString();
  EXPECT_EQ(order, (std::vector<std::string>{"remote", "local", "off",  // warm-up
                                             "remote", "local", "off",  //
                                             "local", "remote",         //
                                             "remote", "local", "off",  //
                                             "local", "remote"}));
  EXPECT_TRUE(result->identical_tokens());
  EXPECT_GT(result->off_requests_differing(), 0u);
  EXPECT_EQ(result->ratios().size(), 4u);
  const auto report = CompareReport(*result, {});
  EXPECT_FALSE(report.contains("tok_s_device") || report.contains("ratio_median_device"));
  EXPECT_EQ(CompareTable(*result, {}).find("GPU"), std::string::npos);

  order.clear();
  sides.device = {device.get(), &device_};
  const auto with_device = Compare(sides, prompts_, options, progress);
  ASSERT_TRUE(with_device.has_value()) << with_device.error().ToString();
  EXPECT_EQ(order, (std::vector<std::string>{"remote", "local", "device", "off",  // warm-up
                                             "remote", "local", "device", "off",  //
                                             "device", "local", "remote",         //
                                             "remote", "local", "device", "off",  //
                                             "device", "local", "remote"}));
  EXPECT_TRUE(with_device->identical_tokens());
  const auto of_device = CompareReport(*with_device, {});
  for (const char* key :
       {"tok_s_device", "prefill_tok_s_device", "decode_tok_s_device", "ratio_median_device"}) {
    EXPECT_GT(of_device.at(key).get<double>(), 0.0) << key;
  }
  EXPECT_EQ(of_device.at("tok_s_device_runs").size(), 4u);
  EXPECT_EQ(of_device.at("ratios_device").size(), 4u);
  EXPECT_TRUE(of_device.contains("latency_device") && of_device.contains("device"));
  EXPECT_NE(CompareTable(*with_device, {}).find("same tables in GPU memory"), std::string::npos);
}

TEST_F(RunTest, CompareSeesATokenThatDiffers) {
  CompareResult result;
  BatchRun run;
  run.results.resize(2);
  run.results[0].tokens = {1, 2};
  run.results[1].tokens = {3};
  run.wall_s = 1.0;
  result.remote = {run, run};
  result.local = {run, run};
  result.off = {run};
  EXPECT_TRUE(result.identical_tokens());
  EXPECT_EQ(result.off_requests_differing(), 0u);
  result.local[1].results[1].tokens = {4};
  EXPECT_FALSE(result.identical_tokens());
  result.local = result.device = {run, run};
  EXPECT_TRUE(result.identical_tokens());
  result.device[0].results[0].tokens = {1, 5};
  EXPECT_FALSE(result.identical_tokens());
}

TEST(RunReportTest, RatesAndSharesComeFromTheCounters) {
  RowSourceStats stats;
  stats.tokens = 1000;
  stats.rows_asked = 48000;
  stats.row_path_cpu_ns = 5'000'000;
  stats.layers.resize(2);
  stats.layers[0].batches = 4;
  stats.layers[0].batches_in_time = 3;
  stats.layers[0].stall_ns = 10'000'000;
  stats.layers[0].prefetch_us = {10, 20, 30, 40};
  stats.layers[0].window_us = {100, 200, 300};
  stats.layers[1].batches = 4;
  stats.layers[1].batches_in_time = 4;
  const std::vector<int32_t> layer_ids = {1, 14};
  const auto report = RowReport(stats, layer_ids, 2.0);
  EXPECT_DOUBLE_EQ(report["stall_percent"], 0.5);
  EXPECT_DOUBLE_EQ(report["row_path_cpu_us_per_token"], 5.0);
  EXPECT_EQ(report["rows_asked"], 48000);
  EXPECT_DOUBLE_EQ(report["layers"]["1"]["prefetch_p50_us"], 25.0);
  EXPECT_DOUBLE_EQ(report["layers"]["1"]["window_p50_us"], 200.0);
  EXPECT_DOUBLE_EQ(report["layers"]["1"]["hidden_fraction"], 0.75);
  EXPECT_DOUBLE_EQ(report["layers"]["14"]["hidden_fraction"], 1.0);
}

TEST(RunReportTest, LatenciesAreOfTheRequestsThatHaveSuchATokenInAnyRun) {
  std::vector<BatchRun> runs(2);
  runs[0].times = {{0.010, 0.040, 4}, {0.030, 0.030, 1}};
  runs[1].times = {{0.020, 0.060, 3}, {0.0, 0.0, 0}};
  const auto report = LatencyReport(runs);
  EXPECT_DOUBLE_EQ(report["ttft_p50_ms"], 20.0);
  EXPECT_NEAR(report["ttft_p99_ms"].get<double>(), 29.8, 1e-9);
  EXPECT_DOUBLE_EQ(report["tpot_p50_ms"], 15.0);
  EXPECT_NEAR(report["tpot_p99_ms"].get<double>(), 19.9, 1e-9);
  EXPECT_EQ(LatencyReport({})["ttft_p50_ms"], 0.0);
}

TEST(RunReportTest, CompareReportHasEveryKeyOfTheDemo) {
  CompareResult result;
  BatchRun run;
  run.results.resize(1);
  run.results[0].tokens = {1, 2, 3, 4};
  run.generated_tokens = 4;
  run.wall_s = 2.0;
  result.remote = {run};
  run.wall_s = 1.0;
  result.local = {run};
  run.results[0].tokens = {4, 3};
  result.off = {run};
  result.remote_rows.layers.resize(1);
  result.local_rows.layers.resize(1);
  const std::vector<int32_t> layer_ids = {1};
  const auto report = CompareReport(result, layer_ids);
  EXPECT_DOUBLE_EQ(report.at("tok_s_remote"), 2.0);
  EXPECT_DOUBLE_EQ(report.at("tok_s_local"), 4.0);
  EXPECT_DOUBLE_EQ(report.at("ratio_median"), 0.5);
  EXPECT_EQ(report.at("identical_tokens"), true);
  for (const char* side : {"latency_remote", "latency_local", "latency_off"}) {
    EXPECT_TRUE(report.at(side).contains("ttft_p50_ms")) << side;
  }
  EXPECT_EQ(report.at("off_differs"), true);
  for (const char* key : {"tok_s_off", "rows_verified", "rows_wrong", "remote_stall_percent",
                          "row_path_cpu_us_per_token", "rows_asked", "rows_unique",
                          "rows_from_cache", "rows_read", "ratio_ci95", "pairs", "ratios"}) {
    EXPECT_TRUE(report.contains(key)) << key;
  }
  for (const char* key :
       {"prefetch_p50_us", "prefetch_p99_us", "window_p50_us", "hidden_fraction"}) {
    EXPECT_TRUE(report.at("layers").at("1").contains(key)) << key;
  }
  EXPECT_NE(CompareTable(result, layer_ids).find("0.5000"), std::string::npos);
}

TEST(RunReportTest, AFileThatCannotBeWrittenIsNamed) {
  const Status status = WriteFile("/nonexistent/report.json", "{}");
  EXPECT_EQ(status.code(), StatusCode::kIo);
  EXPECT_NE(status.message().find("/nonexistent/report.json"), std::string::npos);
  const test::ScratchDir scratch;
  const auto path = scratch.path() / "report.json";
  ASSERT_TRUE(WriteFile(path.string(), "{}\n").ok());
  std::ifstream in(path);
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(in), {}), "{}\n");
}

}  // namespace
}  // namespace engram
