// The model worker against a real cluster.
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

class WorkerTest : public testing::TestWithParam<std::string> {};

TEST_P(WorkerTest, TokensAreTheSameFromNodesAndFromMemoryAndDifferWithEngramOff) {
  auto cluster = TestCluster::Start({.variant = GetParam()});
  ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
  const auto prompts = (*cluster)->scratch() / "prompts.txt";
  std::ofstream(prompts) << "The quick brown fox\nEvery row is checked\nint main(void)\n";
  const auto json_file = (*cluster)->scratch() / "report.json";
  const CommandOutput run = RunCommand({std::string(ENGRAM_BIN_DIR) + "/engram-model-worker",
                                        "compare",
                                        "--model",
                                        (*cluster)->model_dir().string(),
                                        "--coordinator",
                                        (*cluster)->coordinator_address(),
                                        "--prompts",
                                        prompts.string(),
                                        "--transport",
                                        "tcp",
                                        "--way",
                                        "gather",
                                        "--pairs",
                                        "3",
                                        "--max-tokens",
                                        "12",
                                        "--concurrency",
                                        "3",
                                        "--json",
                                        json_file.string()},
                                       std::chrono::seconds(120));
  ASSERT_EQ(run.exit_status, 0) << run.out << run.err;
  const auto report = nlohmann::json::parse(ReadFile(json_file));
  EXPECT_TRUE(report["identical_tokens"].get<bool>());
  EXPECT_TRUE(report["off_differs"].get<bool>());
  EXPECT_EQ(report["rows_wrong"].get<int>(), 0);
  EXPECT_GT(report["rows_verified"].get<int>(), 0);
  EXPECT_EQ(report["nodes"].get<int>(), 3);
  for (const char* layer : {"1", "3"}) {
    for (const char* key :
         {"prefetch_p50_us", "prefetch_p99_us", "window_p50_us", "hidden_fraction"}) {
      EXPECT_TRUE(report["layers"][layer][key].is_number()) << layer << " " << key;
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Variants, WorkerTest, testing::Values("v41", "demo"));

TEST(WorkerRefusalTest, WhatAGpuIsForNeedsItsOtherFlags) {
  const ScratchDir scratch;
  const auto prompts = scratch.path() / "prompts.txt";
  std::ofstream(prompts) << "The quick brown fox\n";
  using Words = std::vector<std::string>;
  const Words direct = {"generate", "--coordinator", "127.0.0.1:1", "--gpu-direct"};
  const auto and_also = [](Words words, const Words& more) {
    words.insert(words.end(), more.begin(), more.end());
    return words;
  };
  const Words on_cuda = and_also(direct, {"--backend", "cuda"});
  const Words by_card = and_also(on_cuda, {"--one-sided", "rdma"});
  for (const auto& [command, wanted] : std::vector<std::pair<Words, std::string>>{
           {{"generate", "--rows", "gpu"}, "need --backend cuda"},
           {{"compare", "--gpu-tables", "--coordinator", "127.0.0.1:1"}, "need --backend cuda"},
           {direct, "needs --backend cuda"},
           {on_cuda, "needs --one-sided rdma"},
           {by_card, "needs --cache-bytes 0"},
           {and_also(direct, {"--backend", "cuda", "--one-sided", "shm"}),
            "needs --one-sided rdma"},
           {and_also(by_card, {"--way", "gather"}), "needs --one-sided rdma"},
           {and_also(by_card, {"--rows", "local"}), "needs --rows remote"},
           // Nothing to say against it: it ends at the empty model folder.
           {{"compare", "--coordinator", "127.0.0.1:1", "--gpu-direct", "--backend", "cuda",
             "--one-sided", "rdma", "--cache-bytes", "0"},
            "config.json"}}) {
    std::vector<std::string> words = {std::string(ENGRAM_BIN_DIR) + "/engram-model-worker"};
    words.insert(words.end(), command.begin(), command.end());
    for (const char* word : {"--model", scratch.path().c_str(), "--prompts", prompts.c_str()}) {
      words.emplace_back(word);
    }
    const CommandOutput run = RunCommand(words, std::chrono::seconds(30));
    EXPECT_NE(run.exit_status, 0);
    EXPECT_NE(run.err.find(wanted), std::string::npos) << run.err;
  }
}

}  // namespace
}  // namespace engram::test
