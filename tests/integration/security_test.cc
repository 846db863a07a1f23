// A whole cluster under mutual TLS: who gets in, who may what, and certificates that change while
// rows are read.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include "tests/integration/reading_client.h"
#include "tests/support/child_process.h"
#include "tests/support/etcd_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

// The files are looked at once a second.
constexpr milliseconds kTaken{1200};

class SecurityTest : public testing::Test {
 protected:
  void StartCluster(ClusterOptions options = {}) {
    options.certs = true;
    options.nodes = 2;
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
  }
  Result<std::unique_ptr<ReadingClient>> Reader(const std::string& way,
                                                const std::string& holder = "reader") {
    ReadingClient::Options reading;
    reading.transport = way == "gather" ? "tcp" : "auto";
    reading.way = way;
    // An absolute path stays as it is.
    if (!holder.empty()) reading.security.certs = (cluster_->certs() / holder).string();
    return ReadingClient::Create(*cluster_, reading);
  }
  // engramctl as somebody else.
  CommandOutput CtlWith(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), std::string(ENGRAM_BIN_DIR) + "/engramctl");
    arguments.insert(arguments.end(), {"--coordinator", cluster_->coordinator_address()});
    return RunCommand(arguments, seconds(30));
  }
  static CommandOutput Curl(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {"/usr/bin/curl", "--silent", "--show-error", "--max-time",
                                         "10", "--write-out", "\n%{http_code}"});
    return RunCommand(arguments, seconds(20));
  }

  std::unique_ptr<TestCluster> cluster_;
};

class SecureWaysTest : public SecurityTest, public testing::WithParamInterface<std::string> {};

TEST_P(SecureWaysTest, RowsAreReadUnderTls) {
  ClusterOptions options;
  if (GetParam() != "gather") options.transport = "auto";
  StartCluster(options);
  ASSERT_NE(cluster_, nullptr);
  auto reader = Reader(GetParam());
  ASSERT_TRUE(reader.has_value()) << reader.error().ToString();
  ReadTally tally;
  (*reader)->Read(20, &tally);
  EXPECT_EQ(tally.batches_ok, 20u);
  EXPECT_EQ(tally.rows_wrong, 0u);
}
INSTANTIATE_TEST_SUITE_P(Ways, SecureWaysTest, testing::Values("gather", "mapped"),
                         [](const auto& way) { return way.param; });

TEST_F(SecurityTest, OnlyThoseWithRightReadAndChange) {
  StartCluster();
  ASSERT_NE(cluster_, nullptr);
  // Slots are copied between nodes under TLS too.
  EXPECT_EQ(cluster_->Ctl({"status"}).exit_status, 0);

  const CommandOutput reader = cluster_->Ctl({"drain", "m0"}, "reader");
  EXPECT_NE(reader.exit_status, 0);
  EXPECT_THAT(reader.err, HasSubstr("PERMISSION_DENIED"));
  EXPECT_THAT(reader.err, HasSubstr("admin.DrainNode is for operator"));
  const CommandOutput node = cluster_->Ctl({"drain", "m0"}, "m1");
  EXPECT_THAT(node.err, HasSubstr("admin.DrainNode is for operator"));

  const CommandOutput nobody = CtlWith({"drain", "m0"});
  EXPECT_NE(nobody.exit_status, 0);
  EXPECT_FALSE(Reader("gather", "").has_value());

  const ScratchDir elsewhere;
  const std::string dir = elsewhere.path().string();
  const std::string ctl = std::string(ENGRAM_BIN_DIR) + "/engramctl";
  ASSERT_EQ(RunCommand({ctl, "certs", "init", "--dir", dir}, seconds(30)).exit_status, 0);
  ASSERT_EQ(RunCommand({ctl, "certs", "issue", "--dir", dir, "--role", "operator", "--name", "eve"},
                       seconds(30))
                .exit_status,
            0);
  const CommandOutput eve = CtlWith({"drain", "m0", "--certs", dir + "/eve"});
  EXPECT_NE(eve.exit_status, 0);
  EXPECT_THAT(eve.err, HasSubstr("one CA"));

  // Nothing of it came through.
  const CommandOutput events = cluster_->Ctl({"events"});
  EXPECT_EQ(events.out.find("drain"), std::string::npos) << events.out;
  EXPECT_EQ(cluster_->Ctl({"drain", "m0"}).exit_status, 0);
}

TEST_F(SecurityTest, TheAuditLogTellsWhoChangedWhatAndWhoWasRefused) {
  const ScratchDir logs;
  const std::string file = (logs.path() / "audit.log").string();
  ClusterOptions options;
  options.coordinator_arguments = {"--audit-log", file};
  StartCluster(options);
  ASSERT_NE(cluster_, nullptr);
  (void)cluster_->Ctl({"drain", "m0"}, "reader");
  EXPECT_EQ(cluster_->Ctl({"drain", "m0"}).exit_status, 0);
  EXPECT_EQ(cluster_->Ctl({"undrain", "m0"}).exit_status, 0);
  const std::string ctl = std::string(ENGRAM_BIN_DIR) + "/engramctl";
  const CommandOutput all = RunCommand({ctl, "audit", file}, seconds(10));
  EXPECT_EQ(all.exit_status, 0) << all.err;
  EXPECT_THAT(all.out, HasSubstr("m1 (node)"));
  EXPECT_THAT(all.out, HasSubstr("operator (operator)"));
  EXPECT_THAT(all.out, HasSubstr("admin.CreateVersion " + cluster_->model_dir().string() + ": OK"));
  EXPECT_THAT(all.out, HasSubstr("admin.DrainNode m0: OK"));
  EXPECT_THAT(all.out, HasSubstr("admin.DrainNode m0 (undo): OK"));
  const CommandOutput refused = RunCommand({ctl, "audit", file, "--refused"}, seconds(10));
  EXPECT_THAT(refused.out, HasSubstr("reader (reader)"));
  EXPECT_EQ(std::count(refused.out.begin(), refused.out.end(), '\n'), 1) << refused.out;
  const CommandOutput json = RunCommand({ctl, "--json", "audit", file, "--who", "m0"}, seconds(10));
  EXPECT_THAT(json.out, HasSubstr("\"what\":\"node.Register\""));
  const CommandOutput missing = RunCommand({ctl, "audit", file + ".7"}, seconds(10));
  EXPECT_THAT(missing.err, HasSubstr("--audit-log"));
}

// For docs/SECURITY.md.
void PrintTally(const char* what, const ReadTally& tally) {
  std::printf("%s: %lu batches, %lu rows right, %lu wrong, %lu batches failed, longest %.0f ms\n",
              what, tally.batches_ok, tally.rows_right, tally.rows_wrong, tally.batches_failed,
              tally.longest_batch_ms);
}

TEST_F(SecurityTest, TokensAreRenewedAndWithoutACoordinatorReadsEndUntilItIsBack) {
  ClusterOptions options;
  options.coordinator_arguments = {"--token-lifetime-s", "6",   "--heartbeat-ms", "200",
                                   "--down-after-ms",    "1000"};
  StartCluster(options);
  ASSERT_NE(cluster_, nullptr);
  auto client = Reader("gather");
  ASSERT_TRUE(client.has_value()) << client.error().ToString();
  // Two lifetimes and more: tokens and the keys that sign them are others then.
  ReadTally tally;
  for (const auto end = std::chrono::steady_clock::now() + seconds(15);
       std::chrono::steady_clock::now() < end;) {
    (*client)->Read(1, &tally);
    std::this_thread::sleep_for(milliseconds(5));
  }
  EXPECT_EQ(tally.batches_failed, 0u)
      << (tally.failures.empty() ? "" : tally.failures[0].ToString());
  EXPECT_GT(tally.batches_ok, 20u);
  PrintTally("tokens and their keys replaced", tally);
  (void)cluster_->coordinator().Stop(SIGKILL);
  bool ended = false;
  for (const auto end = std::chrono::steady_clock::now() + seconds(20);
       !ended && std::chrono::steady_clock::now() < end;) {
    ReadTally one;
    (*client)->Read(1, &one);
    ended = one.batches_failed != 0;
    EXPECT_EQ(one.rows_wrong, 0u);
  }
  EXPECT_TRUE(ended) << "rows were read long after the last token had lapsed";
  const Status back = cluster_->RestartCoordinator();
  ASSERT_TRUE(back.ok()) << back.ToString();
  const ReadTally after = (*client)->ReadUntilAllCome(5, seconds(30));
  EXPECT_EQ(after.batches_failed, 0u)
      << (after.failures.empty() ? "" : after.failures[0].ToString());
  EXPECT_EQ(after.rows_wrong, 0u);
}

TEST_F(SecurityTest, ANodeStartsAndSpeaksUnderItsOwnNameOnly) {
  StartCluster();
  ASSERT_NE(cluster_, nullptr);
  const auto start = [&](const std::string& id, const std::string& holder) {
    return RunCommand(
        {std::string(ENGRAM_BIN_DIR) + "/engram-shard-server", "--id", id, "--coordinator",
         cluster_->coordinator_address(), "--memory", "16MiB", "--listen", "127.0.0.1:0", "--http",
         "127.0.0.1:0", "--certs", (cluster_->certs() / holder).string()},
        seconds(20));
  };
  const CommandOutput other = start("m7", "m0");
  EXPECT_NE(other.exit_status, 0);
  EXPECT_THAT(other.err, HasSubstr("the certificate is for 'm0', this is 'm7'"));
  const CommandOutput role = start("reader", "reader");
  EXPECT_NE(role.exit_status, 0);
  EXPECT_THAT(role.err, HasSubstr("the certificate is of a reader, this program is a node"));
}

TEST_F(SecurityTest, PagesAreForThoseWithACertificateAndProbesForAll) {
  StartCluster();
  ASSERT_NE(cluster_, nullptr);
  const std::string ca = (cluster_->certs() / "ca.crt").string();
  const auto reader = cluster_->certs() / "reader";
  for (const std::string& http : {cluster_->coordinator_http(), cluster_->node_http(0)}) {
    // The test's names are not in the certificates: the CA is what is checked.
    const std::vector<std::string> check = {"--cacert", ca, "--insecure"};
    const auto get = [&](const std::string& path, bool with_certificate) {
      std::vector<std::string> arguments = check;
      if (with_certificate) {
        arguments.insert(arguments.end(), {"--cert", (reader / "tls.crt").string(), "--key",
                                           (reader / "tls.key").string()});
      }
      arguments.push_back("https://" + http + path);
      return Curl(arguments).out;
    };
    EXPECT_THAT(get("/healthz", false), HasSubstr("\n200"));
    EXPECT_THAT(get("/readyz", false), HasSubstr("\n200"));
    const std::string refused = get("/metrics", false);
    EXPECT_THAT(refused, HasSubstr("\n403"));
    EXPECT_THAT(refused, HasSubstr("show a certificate"));
    const std::string metrics = get("/metrics", true);
    EXPECT_THAT(metrics, HasSubstr("\n200"));
    EXPECT_THAT(metrics, HasSubstr("process_"));
    EXPECT_EQ(HttpCall(http, "GET", "/metrics").status, 0) << "plain HTTP was answered";
  }
}

TEST_F(SecurityTest, CertificatesAndCaAreReplacedUnderLoadWithoutAFailedRead) {
  ClusterOptions options;
  options.coordinator_arguments = {"--heartbeat-ms", "200", "--down-after-ms", "1000"};
  StartCluster(options);
  ASSERT_NE(cluster_, nullptr);
  auto client = Reader("gather");
  ASSERT_TRUE(client.has_value()) << client.error().ToString();
  // A key that somebody has copied, and which nobody replaces.
  const ScratchDir elsewhere;
  std::filesystem::copy(cluster_->certs() / "reader", elsewhere.path() / "copied",
                        std::filesystem::copy_options::recursive);
  auto thief = Reader("gather", elsewhere.path() / "copied");
  ASSERT_TRUE(thief.has_value()) << thief.error().ToString();
  std::atomic<bool> stop{false};
  ReadTally tally;
  std::thread reading([&] {
    while (!stop.load()) (*client)->Read(1, &tally);
  });
  const auto certs = [&](const std::vector<std::string>& arguments) {
    const CommandOutput done = cluster_->Certs(arguments);
    EXPECT_EQ(done.exit_status, 0) << done.out << done.err;
    std::this_thread::sleep_for(kTaken);
  };
  certs({"rotate", "--within-days", "100000"});  // every certificate
  certs({"rotate", "--ca"});                     // a new CA beside the old one
  certs({"rotate", "--within-days", "100000"});  // every certificate, of the new one
  ReadTally stolen;
  (*thief)->Read(5, &stolen);
  EXPECT_EQ(stolen.batches_failed, 0u) << "its CA is still trusted";
  certs({"rotate", "--drop-old-ca"});
  // Its session was opened before, and its token is good for an hour.
  bool ended = false;
  for (const auto end = std::chrono::steady_clock::now() + seconds(30);
       !ended && std::chrono::steady_clock::now() < end;) {
    ReadTally one;
    (*thief)->Read(1, &one);
    ended = one.batches_failed != 0;
  }
  EXPECT_TRUE(ended) << "who has a dropped CA's certificate reads on";
  stop = true;
  reading.join();
  EXPECT_GT(tally.batches_ok, 20u);
  EXPECT_EQ(tally.rows_wrong, 0u);
  EXPECT_EQ(tally.batches_failed, 0u)
      << (tally.failures.empty() ? "" : tally.failures[0].ToString());
  PrintTally("certificates and CA replaced", tally);
  // New connections are made with the new certificates: a node's, and everybody's to it.
  cluster_->node(1).Signal(SIGKILL);
  (void)cluster_->node(1).Wait(seconds(10));
  const Status restarted = cluster_->RestartNode(1);
  EXPECT_TRUE(restarted.ok()) << restarted.ToString();
  const Status ready = cluster_->WaitReady();
  EXPECT_TRUE(ready.ok()) << ready.ToString();
  const ReadTally after = (*client)->ReadUntilAllCome(5, seconds(30));
  EXPECT_EQ(after.batches_failed, 0u);
  EXPECT_EQ(after.rows_wrong, 0u);
}

// What the coordinator says of flags that do not fit.
std::string CoordinatorRefusal(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {std::string(ENGRAM_BIN_DIR) + "/engram-coordinator",
                                       "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0"});
  const CommandOutput refused = RunCommand(arguments, seconds(20));
  EXPECT_EQ(refused.exit_status, 1);
  return refused.err;
}

TEST(EtcdFlagsTest, TlsNeedsCertificatesAndPlainHttpLoopback) {
  EXPECT_THAT(CoordinatorRefusal({"--store", "https://127.0.0.1:2379/x"}),
              HasSubstr("needs --etcd-certs FOLDER"));
  EXPECT_THAT(CoordinatorRefusal({"--store", "etcd://127.0.0.1:2379/x", "--etcd-certs", "/x"}),
              HasSubstr("write https://"));
  EXPECT_THAT(CoordinatorRefusal({"--store", "sqlite:/x/y", "--etcd-certs", "/x"}),
              HasSubstr("--etcd-certs is for --store https://"));
  EXPECT_THAT(CoordinatorRefusal({"--store", "etcd://192.0.2.1:2379/x"}),
              HasSubstr("give --etcd-certs FOLDER, or --insecure"));
  EXPECT_THAT(CoordinatorRefusal({"--store", "https://127.0.0.1:1/x", "--etcd-certs", "/nowhere"}),
              HasSubstr("/nowhere/ca.crt is not there"));
}

TEST_F(SecurityTest, CoordinatorsOnAnEtcdUnderTlsLeadAndTakeOver) {
  if (EtcdProcess::Program().empty()) {
    GTEST_SKIP() << "etcd is not installed: run deploy/install-deps";
  }
  // As docs/SECURITY.md says to make them.
  const ScratchDir scratch;
  const std::string dir = (scratch.path() / "etcd-certs").string();
  const auto certs = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), {std::string(ENGRAM_BIN_DIR) + "/engramctl", "certs"});
    arguments.insert(arguments.end(), {"--dir", dir});
    const CommandOutput done = RunCommand(arguments, seconds(30));
    EXPECT_EQ(done.exit_status, 0) << done.err;
  };
  certs({"init"});
  certs({"issue", "--role", "coordinator", "--name", "e0", "--host", "127.0.0.1"});
  certs({"issue", "--role", "coordinator", "--name", "c"});
  auto etcd = EtcdProcess::Start(1, std::filesystem::path(dir) / "e0");
  ASSERT_TRUE(etcd.has_value()) << etcd.error().ToString();
  ClusterOptions options;
  options.coordinators = 2;
  options.store = (*etcd)->StoreAddress("test");
  options.coordinator_arguments = {"--etcd-certs", dir + "/c", "--leader-lease-s", "2"};
  StartCluster(options);
  ASSERT_NE(cluster_, nullptr);
  auto client = Reader("gather");
  ASSERT_TRUE(client.has_value()) << client.error().ToString();
  // A new CA, and certificates of it, while both run. etcd itself reads its CA at its start only.
  certs({"rotate", "--ca"});
  (*etcd)->member(0).Stop(SIGTERM);
  const Status again = (*etcd)->RestartMember(0);
  ASSERT_TRUE(again.ok()) << again.ToString();
  certs({"rotate", "--within-days", "100000"});
  certs({"rotate", "--drop-old-ca"});
  std::this_thread::sleep_for(kTaken);
  (void)cluster_->coordinator(0).Stop(SIGKILL);
  // A change: somebody leads, and writes what it decides into etcd.
  bool changed = false;
  for (const auto end = std::chrono::steady_clock::now() + seconds(60);
       !changed && std::chrono::steady_clock::now() < end;) {
    changed = cluster_->Ctl({"drain", "m0"}).exit_status == 0;
  }
  EXPECT_TRUE(changed) << cluster_->CoordinatorLog(1);
  const ReadTally after = (*client)->ReadUntilAllCome(5, seconds(60));
  EXPECT_EQ(after.batches_failed, 0u);
  EXPECT_EQ(after.rows_wrong, 0u);
}

}  // namespace
}  // namespace engram::test
