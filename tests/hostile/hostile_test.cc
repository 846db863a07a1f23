// A real cluster under attack by engram-hostile-peer, while a reader compares every row that it
// gets. ENGRAM_HOSTILE_MESSAGES and ENGRAM_HOSTILE_SEED: more of them, as tests/hostile/run wants;
// ENGRAM_HOSTILE_READERS: more readers that are killed.
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>

#include "tests/integration/reading_client.h"
#include "tests/support/child_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// What a process may hold more than before, and while it is attacked: docs/SECURITY.md, "Limits".
constexpr int64_t kMemoryMoreMibMax = 256;
constexpr int64_t kDescriptorsMoreMax = 8;
// Not thrown at a cluster that is to live: docs/SECURITY.md, "UCX's own ports".
constexpr const char* kLeftOut = "silent,old-tokens,inside-replay,bad-addresses,stopped-readers";

std::string Setting(const char* name, const std::string& otherwise) {
  const char* const value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

int64_t MemoryMib(pid_t pid, const std::string& field) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  std::string line;
  while (std::getline(status, line)) {
    if (!line.starts_with(field + ":")) continue;
    return std::stoll(line.substr(field.size() + 1)) / 1024;
  }
  return -1;
}

int64_t Descriptors(pid_t pid) {
  const std::filesystem::directory_iterator folder("/proc/" + std::to_string(pid) + "/fd");
  return std::distance(begin(folder), end(folder));
}

class HostileTest : public testing::TestWithParam<bool> {
 protected:
  void Start(const std::vector<std::string>& coordinator_arguments = {}) {
    ClusterOptions options;
    options.nodes = 1;
    options.certs = GetParam();
    options.coordinator_arguments = {"--audit-log", (logs_.path() / "c0").string()};
    options.coordinator_arguments.insert(options.coordinator_arguments.end(),
                                         coordinator_arguments.begin(),
                                         coordinator_arguments.end());
    options.node_arguments = {"--audit-log", (logs_.path() / "m0").string()};
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
    if (!GetParam()) return;
    ASSERT_TRUE(cluster_->IssueCertificate("reader", "other").ok());
    ASSERT_TRUE(cluster_->IssueCertificate("node", "impostor").ok());
    ASSERT_TRUE(cluster_->IssueCertificate("coordinator", "coordinator").ok());
    const std::string ctl = std::string(ENGRAM_BIN_DIR) + "/engramctl";
    const std::string dir = foreign_.path().string();
    ASSERT_EQ(RunCommand({ctl, "certs", "init", "--dir", dir}, seconds(30)).exit_status, 0);
    ASSERT_EQ(
        RunCommand({ctl, "certs", "issue", "--dir", dir, "--role", "operator", "--name", "eve"},
                   seconds(30))
            .exit_status,
        0);
  }
  std::vector<std::string> Attack(const std::vector<std::string>& more) {
    std::vector<std::string> argv = {std::string(ENGRAM_BIN_DIR) + "/engram-hostile-peer",
                                     "--coordinator",
                                     cluster_->coordinator_address(),
                                     "--coordinator-http",
                                     cluster_->coordinator_http(),
                                     "--node",
                                     cluster_->node_address(0),
                                     "--node-http",
                                     cluster_->node_http(0),
                                     "--node-pid",
                                     std::to_string(cluster_->node(0).pid()),
                                     "--seed",
                                     Setting("ENGRAM_HOSTILE_SEED", "1")};
    if (GetParam()) {
      argv.insert(argv.end(), {"--certs", cluster_->certs().string(), "--foreign-cert",
                               (foreign_.path() / "eve").string()});
    }
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  pid_t pid(bool node) { return node ? cluster_->node(0).pid() : cluster_->coordinator().pid(); }
  // Starts a cluster whose node lives on when readers are killed by `attack`, and serves another.
  void KillReaders(const std::string& attack) {
    Start();
    ASSERT_NE(cluster_, nullptr);
    const std::string readers = Setting("ENGRAM_HOSTILE_READERS", "72");
    const auto json = logs_.path().string() + "-report.json";
    const CommandOutput attacked = RunCommand(
        Attack({"--attack", attack, "--messages", readers, "--seconds", "240", "--json", json}),
        seconds(300));
    std::printf("%s", attacked.out.c_str());
    EXPECT_EQ(attacked.exit_status, 0) << attacked.out << attacked.err;
    const auto report = nlohmann::json::parse(ReadFile(json), nullptr, false);
    std::filesystem::remove(json);
    ASSERT_TRUE(report.is_object()) << attacked.out;
    const auto& told = report["attacks"][attack];
    // All of them, and most at a send of theirs: in development mode there are fewer sends.
    EXPECT_EQ(told.value("messages", 0), std::stoi(readers)) << attacked.out;
    EXPECT_GE(told["answers"].value("killed", 0), std::stoi(readers) / 3) << attacked.out;
    EXPECT_EQ(attacked.out.find("was not let in"), std::string::npos) << attacked.out;
    EXPECT_EQ(attacked.out.find("another signal"), std::string::npos)
        << attacked.out << attacked.err;
    EXPECT_TRUE(cluster_->node(0).running()) << cluster_->NodeLog(0);
    ReadingClient::Options reading;
    reading.way = "gather";
    if (GetParam()) reading.security.certs = (cluster_->certs() / "reader").string();
    auto reader = ReadingClient::Create(*cluster_, reading);
    ASSERT_TRUE(reader.has_value()) << reader.error().ToString();
    ReadTally tally;
    (*reader)->Read(3, &tally);
    EXPECT_EQ(tally.batches_ok, 3u);
    EXPECT_EQ(tally.rows_wrong, 0u);
  }
  // Changes that were allowed to those who attack.
  std::string ChangesOfAttackers() {
    std::string found;
    for (const auto& entry : std::filesystem::directory_iterator(logs_.path())) {
      std::istringstream lines(ReadFile(entry.path()));
      std::string line;
      while (std::getline(lines, line)) {
        const auto json = nlohmann::json::parse(line, nullptr, false);
        if (json.is_discarded() || json.value("outcome", "") != "OK") continue;
        const std::string who = json.value("who", "");
        if (who != "m0" && who != "operator" && !who.empty()) found += line + "\n";
      }
    }
    return found;
  }

  ScratchDir logs_;
  ScratchDir foreign_;
  std::unique_ptr<TestCluster> cluster_;
};

TEST_P(HostileTest, NothingIsGivenNothingBreaksAndNobodyElseNotices) {
  Start();
  ASSERT_NE(cluster_, nullptr);
  ReadingClient::Options reading;
  reading.way = "gather";
  reading.deadline_ms = 10000;
  if (GetParam()) reading.security.certs = (cluster_->certs() / "reader").string();
  auto reader = ReadingClient::Create(*cluster_, reading);
  ASSERT_TRUE(reader.has_value()) << reader.error().ToString();
  ReadTally warm;
  (*reader)->Read(3, &warm);
  const std::string events = cluster_->Ctl({"events"}).out;
  int64_t memory_before[2];
  int64_t descriptors_before[2];
  for (const bool node : {false, true}) {
    memory_before[node] = MemoryMib(pid(node), "VmRSS");
    descriptors_before[node] = Descriptors(pid(node));
  }

  std::atomic<bool> stop{false};
  ReadTally tally;
  std::thread reads([&] {
    while (!stop) {
      (*reader)->Read(1, &tally);
      std::this_thread::sleep_for(milliseconds(5));
    }
  });
  // Takes as long as the longest that a port waits for a word: 30 s. Unit tests do with less.
  CommandOutput silent;
  silent.exit_status = 0;
  std::thread waits([&] {
    if (Setting("ENGRAM_HOSTILE_SILENT", "").empty()) return;
    silent = RunCommand(Attack({"--attack", "silent"}), seconds(120));
  });
  const auto json = logs_.path().string() + "-report.json";
  const CommandOutput attacked =
      RunCommand(Attack({"--without", kLeftOut, "--json", json, "--messages",
                         Setting("ENGRAM_HOSTILE_MESSAGES", "30000"), "--seconds",
                         Setting("ENGRAM_HOSTILE_SECONDS", "1")}),
                 seconds(3000));
  waits.join();
  stop = true;
  reads.join();
  std::printf("%s%s", attacked.out.c_str(), silent.out.c_str());

  EXPECT_EQ(attacked.exit_status, 0) << attacked.out << attacked.err;
  EXPECT_EQ(silent.exit_status, 0) << silent.out << silent.err;
  const auto report = nlohmann::json::parse(ReadFile(json), nullptr, false);
  std::filesystem::remove(json);
  ASSERT_TRUE(report.is_object());
  EXPECT_EQ(report.value("given", uint64_t{1}), 0u);
  EXPECT_EQ(tally.rows_wrong, 0u);
  EXPECT_EQ(tally.batches_failed, 0u)
      << (tally.failures.empty() ? "" : tally.failures[0].ToString());
  EXPECT_GT(tally.batches_ok, 20u);
  EXPECT_EQ(cluster_->Ctl({"events"}).out, events);
  EXPECT_EQ(ChangesOfAttackers(), "");
  for (const bool node : {false, true}) {
    const std::string who = node ? "the memory node" : "the coordinator";
    ASSERT_TRUE(node ? cluster_->node(0).running() : cluster_->coordinator().running()) << who;
    const int64_t peak = MemoryMib(pid(node), "VmHWM");
    int64_t more = 0;
    // Sessions whose peer went without a word end after 10 s.
    for (const auto end = std::chrono::steady_clock::now() + seconds(60);;) {
      more = Descriptors(pid(node)) - descriptors_before[node];
      if (more <= kDescriptorsMoreMax || std::chrono::steady_clock::now() > end) break;
      std::this_thread::sleep_for(milliseconds(100));
    }
    std::printf("%s: %ld MiB before, %ld at most, %ld now; %ld descriptors before, %ld more now\n",
                who.c_str(), memory_before[node], peak, MemoryMib(pid(node), "VmRSS"),
                descriptors_before[node], more);
    EXPECT_LE(more, kDescriptorsMoreMax) << who;
    // A sanitizer keeps what was freed.
    if (Setting("ENGRAM_SANITIZER", "").empty()) {
      EXPECT_LE(peak - memory_before[node], kMemoryMoreMibMax) << who;
    }
  }
  std::printf(
      "reader: %lu batches, %lu rows right, %lu wrong, %lu batches failed, longest %.0f ms\n",
      tally.batches_ok, tally.rows_right, tally.rows_wrong, tally.batches_failed,
      tally.longest_batch_ms);
  std::printf("sum: %lu hostile messages, %lu given\n", report.value("messages", uint64_t{0}),
              report.value("given", uint64_t{0}));
  // They end by themselves, so that a leak is told.
  EXPECT_EQ(cluster_->node(0).Stop(SIGTERM), 0) << cluster_->NodeLog(0);
  EXPECT_EQ(cluster_->coordinator().Stop(SIGTERM), 0) << cluster_->CoordinatorLog();
}

// Each at another of its first sends, which are UCX's handshake among others.
TEST_P(HostileTest, ReadersThatAreKilledEndNoNode) { KillReaders("killed-readers"); }

TEST_P(HostileTest, ReadersThatAreKilledOnOnePortEndNoNode) { KillReaders("killed-again"); }

// In the midst of UCX's handshake among other places.
TEST_P(HostileTest, ReadersThatStandStillKeepNoNodeFromItsEnd) {
  Start();
  ASSERT_NE(cluster_, nullptr);
  // Before the thread: it asks the node for its pid.
  const auto command =
      Attack({"--attack", "stopped-readers", "--messages", "24", "--seconds", "12"});
  CommandOutput attacked;
  std::thread attack([&] { attacked = RunCommand(command, seconds(60)); });
  std::this_thread::sleep_for(seconds(6));
  EXPECT_TRUE(cluster_->node(0).running()) << cluster_->NodeLog(0);
  EXPECT_EQ(cluster_->node(0).Stop(SIGTERM), 0) << cluster_->NodeLog(0);
  attack.join();
  std::printf("%s", attacked.out.c_str());
  EXPECT_NE(attacked.out.find("\"stopped\""), std::string::npos) << attacked.out;
}

TEST_P(HostileTest, ATokenIsOfNoUseToOthersNorAfterItsEnd) {
  if (!GetParam()) GTEST_SKIP() << "nobody has tokens in development mode";
  Start({"--token-lifetime-s", "4"});
  ASSERT_NE(cluster_, nullptr);
  const CommandOutput attacked =
      RunCommand(Attack({"--attack", "old-tokens", "--seconds", "60"}), seconds(120));
  EXPECT_EQ(attacked.exit_status, 0) << attacked.out << attacked.err;
  EXPECT_EQ(attacked.out.find("lives longer"), std::string::npos) << attacked.out;
}

INSTANTIATE_TEST_SUITE_P(Modes, HostileTest, testing::Values(true, false), [](const auto& certs) {
  return certs.param ? "Certificates" : "Development";
});

}  // namespace
}  // namespace engram::test
