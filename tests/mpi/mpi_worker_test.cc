// mpirun -np T engram-model-worker against a real cluster: the tokens of one rank, and what happens
// when a rank or a memory node is lost.
#include <chrono>
#include <csignal>
#include <fstream>
#include <functional>
#include <future>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using nlohmann::json;
using testing::HasSubstr;

constexpr std::chrono::minutes kPatience{3};
const std::string kWorker = std::string(ENGRAM_BIN_DIR) + "/engram-model-worker";

std::vector<std::string> Mpirun(int ranks) {
  std::vector<std::string> argv;
  std::istringstream words(ENGRAM_MPIRUN);
  for (std::string word; words >> word;) argv.push_back(word);
  argv.insert(argv.end(), {"-np", std::to_string(ranks)});
  return argv;
}

void Append(const std::vector<std::string>& more, std::vector<std::string>* argv) {
  argv->insert(argv->end(), more.begin(), more.end());
}

// The ids of a process's children.
std::vector<pid_t> ChildrenOf(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string stat = ReadFile(entry.path() / "stat");
    // After the name, which may hold anything: state, parent.
    const size_t after_name = stat.rfind(')');
    if (after_name == std::string::npos) continue;
    std::istringstream rest(stat.substr(after_name + 1));
    char state = 0;
    pid_t of = 0;
    rest >> state >> of;
    if (of == parent && state != 'Z') children.push_back(std::stoi(name));
  }
  return children;
}

// The number of the process's rank, as its environment says.
std::string RankOf(pid_t pid) {
  const std::string environment = ReadFile("/proc/" + std::to_string(pid) + "/environ");
  const std::string name = "OMPI_COMM_WORLD_RANK=";
  const size_t at = environment.find(name);
  return at == std::string::npos ? "" : std::string(environment.c_str() + at + name.size());
}

bool IsAlive(pid_t pid) {
  const std::string stat = ReadFile("/proc/" + std::to_string(pid) + "/stat");
  const size_t after_name = stat.rfind(')');
  return after_name != std::string::npos && stat[after_name + 2] != 'Z';
}

class MpiWorkerTest : public testing::Test {
 protected:
  void Start(const std::string& variant, int nodes = 3) {
    ClusterOptions options;
    options.variant = variant;
    options.nodes = nodes;
    options.kv_heads = 4;
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
    std::ofstream(cluster_->scratch() / "prompts.txt")
        << "The quick brown fox\nEvery row is checked\nint main(void)\nOnce upon a time there was "
           "a table of rows that nobody had read\n";
  }
  // What every command takes.
  [[nodiscard]] std::vector<std::string> ModelFlags() const {
    return {"--model",         cluster_->model_dir().string(),
            "--coordinator",   cluster_->coordinator_address(),
            "--transport",     "tcp",
            "--way",           "gather",
            "--concurrency",   "3",
            "--cache-bytes",   "0",
            "--prefill-chunk", "16"};
  }
  // generate's report. `started` is empty, or mpirun.
  json Generate(std::vector<std::string> started, const std::vector<std::string>& flags) {
    const auto file = cluster_->scratch() / "report.json";
    std::filesystem::remove(file);
    Append({kWorker, "generate"}, &started);
    Append(ModelFlags(), &started);
    Append({"--prompts", (cluster_->scratch() / "prompts.txt").string(), "--max-tokens", "12",
            "--ignore-stop", "--row-deadline-ms", "30000", "--json", file.string()},
           &started);
    Append(flags, &started);
    const CommandOutput run = RunCommand(started, kPatience);
    EXPECT_EQ(run.exit_status, 0) << run.out << run.err;
    return run.exit_status == 0 ? json::parse(ReadFile(file)) : json();
  }
  static std::vector<std::vector<int>> TokensOf(const json& report) {
    std::vector<std::vector<int>> tokens;
    for (const json& request : report["requests"]) {
      tokens.push_back(request["token_ids"].get<std::vector<int>>());
    }
    return tokens;
  }

  std::unique_ptr<TestCluster> cluster_;
};

class MpiTokensTest : public MpiWorkerTest, public testing::WithParamInterface<std::string> {};

TEST_P(MpiTokensTest, TokensAreThoseOfOneRankAndStripesAreReadOnce) {
  ASSERT_NO_FATAL_FAILURE(Start(GetParam()));
  const json one = Generate({}, {});
  ASSERT_EQ(TokensOf(one).size(), 4u);
  EXPECT_FALSE(one.contains("ranks"));
  const auto rows_of_one = one["rows"]["rows_read"].get<uint64_t>();
  for (const int ranks : {2, 4}) {
    for (const std::string fetch : {"cooperative", "all", "auto"}) {
      SCOPED_TRACE(std::to_string(ranks) + " ranks, " + fetch);
      // Prefill steps are above this, decode steps below.
      const json report =
          Generate(Mpirun(ranks), {"--fetch", fetch, "--fetch-rows", "400", "--threads", "1"});
      EXPECT_EQ(TokensOf(report), TokensOf(one));
      ASSERT_EQ(report["ranks"].size(), static_cast<size_t>(ranks));
      EXPECT_EQ(report["parameters_non_embedding"], one["parameters_non_embedding"]);
      uint64_t rows = 0;
      for (const json& rank : report["ranks"]) {
        EXPECT_EQ(rank["rows_wrong"], 0);
        EXPECT_EQ(rank["rows_failed"], 0);
        EXPECT_GT(rank["reduces"].get<uint64_t>(), 0u);
        EXPECT_GT(rank["rows_read"].get<uint64_t>(), 0u);
        EXPECT_EQ(rank["gathered_rows"].get<uint64_t>() > 0, fetch != "all");
        rows += rank["rows_read"].get<uint64_t>();
      }
      if (fetch == "cooperative") {
        EXPECT_EQ(rows, rows_of_one);
      } else if (fetch == "all") {
        EXPECT_EQ(rows, rows_of_one * static_cast<uint64_t>(ranks));
      } else {
        EXPECT_GT(rows, rows_of_one);
        EXPECT_LT(rows, rows_of_one * static_cast<uint64_t>(ranks));
      }
    }
  }
}
INSTANTIATE_TEST_SUITE_P(Variants, MpiTokensTest, testing::Values("v41", "demo"));

TEST_F(MpiWorkerTest, CompareFindsTheSameTokensFromNodesAndFromMemory) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 2));
  const auto file = cluster_->scratch() / "report.json";
  std::vector<std::string> argv = Mpirun(2);
  Append({kWorker, "compare"}, &argv);
  Append(ModelFlags(), &argv);
  Append({"--prompts", (cluster_->scratch() / "prompts.txt").string(), "--max-tokens", "6",
          "--row-deadline-ms", "30000", "--pairs", "2", "--off-runs", "1", "--json", file.string()},
         &argv);
  const CommandOutput run = RunCommand(argv, kPatience);
  ASSERT_EQ(run.exit_status, 0) << run.out << run.err;
  const json report = json::parse(ReadFile(file));
  EXPECT_TRUE(report["identical_tokens"].get<bool>());
  EXPECT_TRUE(report["off_differs"].get<bool>());
  EXPECT_EQ(report["ranks"], 2);
}

TEST_F(MpiWorkerTest, WhatOneRankCannotDoIsSaidOnceAndEndsAll) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 1));
  const auto fails = [&](std::vector<std::string> argv, const std::vector<std::string>& flags,
                         const std::string& prompts = "prompts.txt") {
    Append({kWorker, "generate"}, &argv);
    Append(ModelFlags(), &argv);
    Append({"--prompts", (cluster_->scratch() / prompts).string()}, &argv);
    Append(flags, &argv);
    const CommandOutput run = RunCommand(argv, kPatience);
    EXPECT_GT(run.exit_status, 0) << run.out << run.err;
    return run.err;
  };
  const std::string three = fails(Mpirun(3), {});
  EXPECT_THAT(three, HasSubstr("3 ranks cannot share this model: allowed are 1, 2, 4 "));
  EXPECT_EQ(three.find("allowed are"), three.rfind("allowed are"));
  EXPECT_THAT(fails(Mpirun(2), {"--tensor-parallel", "4"}),
              HasSubstr("--tensor-parallel 4, but there are 2 ranks: start it as mpirun -np 4"));
  EXPECT_THAT(fails({}, {"--tensor-parallel", "2"}), HasSubstr("mpirun -np 2"));
  std::ofstream(cluster_->scratch() / "empty.txt");
  EXPECT_THAT(fails(Mpirun(2), {}, "empty.txt"), HasSubstr("rank 0 of 2: "));
  // Ranks with unlike flags: two programs in one mpirun.
  std::vector<std::string> mixed = Mpirun(1);
  Append({kWorker, "generate"}, &mixed);
  Append(ModelFlags(), &mixed);
  Append({"--prompts", (cluster_->scratch() / "prompts.txt").string(), ":", "-np", "1"}, &mixed);
  EXPECT_THAT(fails(mixed, {"--positions", "77"}),
              HasSubstr("rank 1 was started with another model or other flags than rank 0"));
}

TEST_F(MpiWorkerTest, RanksMayEachHaveAModelOfTheirOwn) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 1));
  std::vector<std::string> argv = Mpirun(2);
  Append({kWorker, "generate"}, &argv);
  Append(ModelFlags(), &argv);
  Append({"--prompts", (cluster_->scratch() / "prompts.txt").string(), "--max-tokens", "3",
          "--quiet", "--tensor-parallel", "1"},
         &argv);
  const CommandOutput run = RunCommand(argv, kPatience);
  ASSERT_EQ(run.exit_status, 0) << run.out << run.err;
  const std::string figures = "prompt tokens";
  EXPECT_NE(run.out.find(figures), run.out.rfind(figures)) << run.out;
}

// serve, on some ranks.
class MpiServeTest : public MpiWorkerTest {
 protected:
  void Serve(int ranks, const std::vector<std::string>& flags) {
    announce_ = cluster_->scratch() / "worker.json";
    log_ = cluster_->scratch() / "worker.log";
    std::filesystem::remove(announce_);
    std::vector<std::string> argv = ranks == 1 ? std::vector<std::string>() : Mpirun(ranks);
    Append({kWorker, "serve"}, &argv);
    Append(ModelFlags(), &argv);
    Append({"--listen", "127.0.0.1:0", "--announce-file", announce_.string()}, &argv);
    Append(flags, &argv);
    auto started = ChildProcess::Start(argv, log_);
    ASSERT_TRUE(started.has_value()) << started.error().ToString();
    process_ = std::move(*started);
    const auto announcement = AwaitAnnouncement(announce_, process_, log_);
    ASSERT_TRUE(announcement.has_value()) << announcement.error().ToString();
    address_ = (*announcement)["http"].get<std::string>();
  }

  HttpReply Complete(const std::string& prompt) {
    const json body = {{"prompt", prompt}, {"max_tokens", 8}, {"temperature", 0}};
    return HttpCall(address_, "POST", "/v1/completions", body.dump());
  }
  std::string TextOf(const HttpReply& reply) {
    EXPECT_EQ(reply.status, 200) << reply.body;
    return reply.status == 200 ? json::parse(reply.body)["choices"][0]["text"].get<std::string>()
                               : "";
  }
  void Await(const std::string& path, const std::function<bool(const HttpReply&)>& holds) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (!holds(HttpCall(address_, "GET", path))) {
      ASSERT_LT(std::chrono::steady_clock::now(), until) << path << "\n" << ReadFile(log_);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  pid_t Rank(const std::string& number) {
    for (const pid_t pid : ChildrenOf(process_.pid())) {
      if (RankOf(pid) == number) return pid;
    }
    ADD_FAILURE() << "no rank " << number;
    return 0;
  }
  // Never to a pid that is none: -1 would be every process of the machine, 0 this test's group.
  static void SignalRank(pid_t rank, int signal) {
    ASSERT_GT(rank, 1);
    ASSERT_EQ(::kill(rank, signal), 0);
  }
  // All ranks are gone with mpirun.
  void ExpectAllGone(const std::vector<pid_t>& ranks) {
    const auto until = std::chrono::steady_clock::now() + kPatience;
    for (const pid_t pid : ranks) {
      while (IsAlive(pid) && std::chrono::steady_clock::now() < until) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
      }
      EXPECT_FALSE(IsAlive(pid)) << "rank process " << pid << " lives on";
    }
  }

  std::filesystem::path announce_, log_;
  ChildProcess process_;
  std::string address_;
};

TEST_F(MpiServeTest, ServesTheTextOfOneRankAndTheFiguresOfAllAndStopsWhenTold) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 2));
  ASSERT_NO_FATAL_FAILURE(Serve(1, {}));
  const std::string text = TextOf(Complete("The quick brown fox"));
  EXPECT_EQ(process_.Stop(SIGTERM), 0) << ReadFile(log_);
  ASSERT_NO_FATAL_FAILURE(Serve(2, {"--fetch", "cooperative", "--row-deadline-ms", "60000"}));
  EXPECT_EQ(TextOf(Complete("The quick brown fox")), text);
  // Ranks that have nothing to do sleep, and wake again.
  std::this_thread::sleep_for(std::chrono::milliseconds(1500));
  EXPECT_EQ(TextOf(Complete("The quick brown fox")), text);
  const HttpReply metrics = HttpCall(address_, "GET", "/metrics");
  EXPECT_EQ(metrics.status, 200);
  EXPECT_THAT(metrics.body, HasSubstr("engram_worker_rank_rows_read_total{rank=\"1\"}"));
  EXPECT_THAT(metrics.body, HasSubstr("engram_worker_rank_reduce_seconds_total{rank=\"0\"}"));
  // mpirun hands SIGUSR1 on: they end as one process does, and what runs is answered first. After a
  // SIGTERM it ends them itself.
  std::vector<pid_t> ranks = {Rank("0"), Rank("1")};
  for (int i = 0; i < cluster_->node_count(); ++i) cluster_->node(i).Signal(SIGSTOP);
  auto running = std::async(std::launch::async, [this] { return Complete("The quick brown fox"); });
  Await("/metrics", [](const HttpReply& page) {
    return page.body.find("engram_worker_requests_running 1\n") != std::string::npos;
  });
  process_.Signal(SIGUSR1);
  Await("/readyz", [](const HttpReply& page) { return page.status == 503; });
  EXPECT_EQ(Complete("The quick brown fox").status, 503);
  for (int i = 0; i < cluster_->node_count(); ++i) cluster_->node(i).Signal(SIGCONT);
  EXPECT_EQ(TextOf(running.get()), text);
  EXPECT_EQ(process_.Wait(kPatience), 0) << ReadFile(log_);
  ExpectAllGone(ranks);
  ASSERT_NO_FATAL_FAILURE(Serve(2, {}));
  ranks = {Rank("0"), Rank("1")};
  process_.Signal(SIGTERM);
  EXPECT_NE(process_.Wait(kPatience), -1) << ReadFile(log_);
  ExpectAllGone(ranks);
}

TEST_F(MpiServeTest, AKilledRankEndsTheOthers) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 1));
  for (const std::string killed : {"0", "1"}) {
    ASSERT_NO_FATAL_FAILURE(Serve(2, {}));
    (void)TextOf(Complete("int main"));
    const std::vector<pid_t> ranks = {Rank("0"), Rank("1")};
    ASSERT_NO_FATAL_FAILURE(SignalRank(Rank(killed), SIGKILL));
    const int status = process_.Wait(kPatience);
    EXPECT_GT(status, 0) << "mpirun still runs, or says that all is well";
    EXPECT_THAT(ReadFile(log_), HasSubstr("exited on signal 9"));
    ExpectAllGone(ranks);
    std::filesystem::remove(log_);
  }
}

TEST_F(MpiServeTest, ARankThatStopsAnsweringIsNotWaitedForWithoutEnd) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 1));
  ASSERT_NO_FATAL_FAILURE(Serve(2, {"--rank-timeout-s", "2", "--row-deadline-ms", "1000"}));
  (void)TextOf(Complete("int main"));
  const std::vector<pid_t> ranks = {Rank("0"), Rank("1")};
  ASSERT_NO_FATAL_FAILURE(SignalRank(ranks[1], SIGSTOP));
  (void)Complete("int main");  // the step that rank 1 has no part in
  EXPECT_GT(process_.Wait(kPatience), 0);
  const std::string log = ReadFile(log_);
  EXPECT_THAT(log, HasSubstr("rank 0 of 2 ends all ranks: DEADLINE_EXCEEDED: "));
  EXPECT_THAT(log, HasSubstr("waited 3000 ms for the other ranks in "));
  ExpectAllGone(ranks);
}

TEST_F(MpiServeTest, MeasureFetchDoesNotWaitWithoutEndEither) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 1));
  log_ = cluster_->scratch() / "measure.log";
  std::vector<std::string> argv = Mpirun(2);
  Append({kWorker, "measure-fetch"}, &argv);
  Append(ModelFlags(), &argv);
  // More batches than this test waits for.
  Append({"--pairs", "100000", "--rank-timeout-s", "2", "--row-deadline-ms", "1000"}, &argv);
  auto started = ChildProcess::Start(argv, log_);
  ASSERT_TRUE(started.has_value()) << started.error().ToString();
  process_ = std::move(*started);
  const auto until = std::chrono::steady_clock::now() + kPatience;
  while (ReadFile(log_).find("measuring batches") == std::string::npos) {
    ASSERT_LT(std::chrono::steady_clock::now(), until) << ReadFile(log_);
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  const std::vector<pid_t> ranks = {Rank("0"), Rank("1")};
  ASSERT_NO_FATAL_FAILURE(SignalRank(ranks[1], SIGSTOP));
  EXPECT_GT(process_.Wait(kPatience), 0);
  EXPECT_THAT(ReadFile(log_), HasSubstr("waited 3000 ms for the other ranks in "));
  ExpectAllGone(ranks);
}

TEST_F(MpiServeTest, RowsThatCannotBeHadFailRequestsAndRanksGoOnTogether) {
  ASSERT_NO_FATAL_FAILURE(Start("v41", 2));
  for (const std::string fetch : {"cooperative", "all"}) {
    ASSERT_NO_FATAL_FAILURE(
        Serve(2, {"--fetch", fetch, "--row-deadline-ms", "1500", "--row-retries", "0"}));
    const std::string text = TextOf(Complete("Every row is checked"));
    (void)cluster_->node(1).Stop(SIGKILL);
    const HttpReply failed = Complete("Every row is checked");
    EXPECT_NE(failed.status, 200);
    EXPECT_THAT(failed.body, HasSubstr("rank ")) << failed.body;
    ASSERT_TRUE(cluster_->RestartNode(1).ok());
    ASSERT_TRUE(cluster_->WaitReady().ok());
    const auto until = std::chrono::steady_clock::now() + kPatience;
    HttpReply reply = Complete("Every row is checked");
    while (reply.status != 200 && std::chrono::steady_clock::now() < until) {
      reply = Complete("Every row is checked");
    }
    EXPECT_EQ(TextOf(reply), text);
    process_.Signal(SIGTERM);
    EXPECT_NE(process_.Wait(kPatience), -1) << ReadFile(log_);
  }
}

}  // namespace
}  // namespace engram::test
