// What the real programs may still do once they run, as the kernel tells it, and that rows are read
// every way all the same.
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <linux/capability.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/integration/reading_client.h"
#include "tests/support/child_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

namespace fs = std::filesystem;
using std::chrono::seconds;
using testing::HasSubstr;

constexpr uint64_t kIpcLock = uint64_t{1} << CAP_IPC_LOCK;

// "CapEff" of a /proc/.../status; empty where there is none.
std::string Field(const fs::path& status, const std::string& name) {
  std::istringstream lines(ReadFile(status));
  for (std::string line; std::getline(lines, line);) {
    if (!line.starts_with(name + ":")) continue;
    const size_t value = line.find_first_not_of(" \t", name.size() + 1);
    return value == std::string::npos ? "" : line.substr(value);
  }
  return "";
}

uint64_t Capabilities(const fs::path& status, const std::string& name) {
  const std::string text = Field(status, name);
  EXPECT_FALSE(text.empty()) << name << " of " << status;
  return text.empty() ? ~uint64_t{0} : std::stoull(text, nullptr, 16);
}

// This test's own, which the programs started with.
uint64_t Own(const std::string& name) { return Capabilities("/proc/self/status", name); }

class PrivilegesTest : public testing::Test {
 protected:
  void StartCluster(const std::string& transport) {
    ClusterOptions options;
    options.nodes = 2;
    options.certs = true;
    options.transport = transport;
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
  }
  // Of every thread: capabilities are a thread's own.
  static void ExpectDropped(ChildProcess& process, const std::string& program) {
    SCOPED_TRACE(program);
    ASSERT_TRUE(process.running());
    int threads = 0;
    for (const auto& task :
         fs::directory_iterator("/proc/" + std::to_string(process.pid()) + "/task")) {
      const fs::path status = task.path() / "status";
      SCOPED_TRACE(Field(status, "Name"));
      ++threads;
      EXPECT_EQ(Capabilities(status, "CapPrm"), Own("CapPrm") & kIpcLock);
      EXPECT_EQ(Capabilities(status, "CapEff"), Own("CapPrm") & kIpcLock);
      EXPECT_EQ(Capabilities(status, "CapInh"), 0u);
      EXPECT_EQ(Capabilities(status, "CapAmb"), 0u);
      const bool may_empty = (Own("CapEff") & (uint64_t{1} << CAP_SETPCAP)) != 0;
      EXPECT_EQ(Capabilities(status, "CapBnd"), may_empty ? 0u : Own("CapBnd"));
      EXPECT_EQ(Field(status, "NoNewPrivs"), "1");
    }
    EXPECT_GE(threads, 1);
  }
  static void ExpectNewFilesPrivate(ChildProcess& process) {
    EXPECT_EQ(Field("/proc/" + std::to_string(process.pid()) + "/status", "Umask"), "0077");
  }

  std::unique_ptr<TestCluster> cluster_;
};

TEST_F(PrivilegesTest, EveryThreadOfEveryProgramHasGivenUpWhatItDoesNotNeed) {
  StartCluster("auto");
  ASSERT_NE(cluster_, nullptr);
  ExpectDropped(cluster_->coordinator(), "engram-coordinator");
  ExpectNewFilesPrivate(cluster_->coordinator());
  for (int i = 0; i < cluster_->node_count(); ++i) {
    ExpectDropped(cluster_->node(i), "engram-shard-server");
    ExpectNewFilesPrivate(cluster_->node(i));
  }
  struct stat state {};
  ASSERT_EQ(::stat((cluster_->scratch() / "state.sqlite").c_str(), &state), 0);
  EXPECT_EQ(state.st_mode & 0777, 0600u);
  const bool is_root = ::geteuid() == 0;
  for (const std::string& log : {cluster_->CoordinatorLog(), cluster_->NodeLog(0)}) {
    EXPECT_EQ(log.find("runs as root") != std::string::npos, is_root) << log;
  }

  ASSERT_TRUE(cluster_->IssueCertificate("reader", "worker").ok());
  const auto announce = cluster_->scratch() / "worker.json";
  const auto log = cluster_->scratch() / "worker.log";
  auto worker = ChildProcess::Start(
      {std::string(ENGRAM_BIN_DIR) + "/engram-model-worker", "serve", "--model",
       cluster_->model_dir().string(), "--coordinator", cluster_->coordinator_address(), "--certs",
       (cluster_->certs() / "worker").string(), "--transport", "auto", "--way", "mapped",
       "--cache-bytes", "1MiB", "--listen", "127.0.0.1:0", "--announce-file", announce.string()},
      log);
  ASSERT_TRUE(worker.has_value()) << worker.error().ToString();
  const auto announced = AwaitAnnouncement(announce, *worker, log);
  ASSERT_TRUE(announced.has_value()) << announced.error().ToString();
  ExpectDropped(*worker, "engram-model-worker");
}

class PrivilegedReaderTest : public PrivilegesTest,
                             public testing::WithParamInterface<std::string> {};

// The reader is this test, with all that its user has; and engramctl.
TEST_P(PrivilegedReaderTest, RowsAreReadEveryWay) {
  StartCluster(GetParam() == "gather" ? "tcp" : GetParam() == "mapped_shm" ? "shm" : "auto");
  ASSERT_NE(cluster_, nullptr);
  const std::string way = GetParam() == "gather" ? "gather" : "mapped";
  const std::string transport = way == "gather" ? "tcp" : "auto";
  ReadingClient::Options reading;
  reading.transport = transport;
  reading.way = way;
  reading.security.certs = (cluster_->certs() / "reader").string();
  auto reader = ReadingClient::Create(*cluster_, reading);
  ASSERT_TRUE(reader.has_value()) << reader.error().ToString();
  ReadTally tally;
  (*reader)->Read(20, &tally);
  EXPECT_EQ(tally.batches_ok, 20u);
  EXPECT_EQ(tally.rows_wrong, 0u);
  const CommandOutput verified =
      cluster_->Ctl({"verify", "--model", cluster_->model_dir().string(), "--way", way}, "reader");
  EXPECT_EQ(verified.exit_status, 0) << verified.out << verified.err;
  // A reader with less than the node: the kernel lets nobody look into a process that has more.
  if ((Own("CapEff") & (uint64_t{1} << CAP_SETPCAP)) == 0) return;
  const CommandOutput bare = RunCommand(
      {"/usr/bin/setpriv", "--bounding-set=-all", std::string(ENGRAM_BIN_DIR) + "/engramctl",
       "verify", "--model", cluster_->model_dir().string(), "--way", way, "--coordinator",
       cluster_->coordinator_address(), "--certs", (cluster_->certs() / "reader").string()},
      seconds(60));
  EXPECT_EQ(bare.exit_status, 0) << bare.out << bare.err;
}
INSTANTIATE_TEST_SUITE_P(Ways, PrivilegedReaderTest,
                         testing::Values("gather", "mapped_shm", "mapped_auto"),
                         [](const auto& way) { return way.param; });

TEST_F(PrivilegesTest, APortThatNeedsAPrivilegeIsRefusedWithWhatToDo) {
  const int first = std::stoi("0" + ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
  if (first < 8) GTEST_SKIP() << "every port is free to everybody here";
  const ScratchDir scratch;
  const CommandOutput refused =
      RunCommand({std::string(ENGRAM_BIN_DIR) + "/engram-coordinator", "--listen", "127.0.0.1:7",
                  "--http", "127.0.0.1:0", "--state", (scratch.path() / "state.sqlite").string()},
                 seconds(20));
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_THAT(refused.err, HasSubstr("ip_unprivileged_port_start"));
}

}  // namespace
}  // namespace engram::test
