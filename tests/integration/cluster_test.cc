// Real processes on loopback: what a user of the whole system relies on.
#include <atomic>
#include <chrono>
#include <ostream>
#include <string>
#include <thread>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>

#include "client/connect.h"
#include "tests/integration/reading_client.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::unique_ptr<TestCluster> StartCluster(const ClusterOptions& options = {}) {
  auto cluster = TestCluster::Start(options);
  EXPECT_TRUE(cluster.has_value()) << cluster.error().ToString();
  return cluster.has_value() ? std::move(*cluster) : nullptr;
}

std::unique_ptr<ReadingClient> Connect(const TestCluster& cluster,
                                       const ReadingClient::Options& options = {}) {
  auto client = ReadingClient::Create(cluster, options);
  EXPECT_TRUE(client.has_value()) << client.error().ToString();
  return client.has_value() ? std::move(*client) : nullptr;
}

void ExpectOnlyRightRows(const ReadTally& tally) {
  EXPECT_EQ(tally.rows_wrong, 0u);
  EXPECT_EQ(tally.batches_failed, 0u)
      << (tally.failures.empty() ? "" : tally.failures[0].ToString());
}

class VariantClusterTest : public testing::TestWithParam<std::string> {};

TEST_P(VariantClusterTest, EveryRowOnTheNodesIsTheCheckpoints) {
  auto cluster = StartCluster({.variant = GetParam()});
  ASSERT_NE(cluster, nullptr);
  const CommandOutput verified =
      cluster->Ctl({"verify", "--model", cluster->model_dir().string(), "--all"});
  EXPECT_EQ(verified.exit_status, 0) << verified.out << verified.err;
  auto client = Connect(*cluster);
  ASSERT_NE(client, nullptr);
  ReadTally tally;
  client->Read(50, &tally);
  ExpectOnlyRightRows(tally);
  EXPECT_EQ(client->remote().Stats().rows_wrong, 0u);
  EXPECT_GT(client->remote().Stats().rows_verified, 0u);
}
INSTANTIATE_TEST_SUITE_P(Variants, VariantClusterTest, testing::Values("v41", "demo"));

TEST(ClusterTest, SharesOfEqualNodesDifferByTwoPercentAtMost) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  const CommandOutput status = cluster->Ctl({"status", "--json"});
  ASSERT_EQ(status.exit_status, 0) << status.err;
  const auto json = nlohmann::json::parse(status.out);
  ASSERT_EQ(json["nodes"].size(), 3u);
  const double total = json["versions"][0]["total_bytes"].get<double>();
  for (const auto& node : json["nodes"]) {
    EXPECT_LE(node["assigned_bytes"].get<double>(), 1.02 * total / 3) << status.out;
  }
}

TEST(ClusterTest, RowsOfAKilledNodeAreNamedErrorsUntilItIsBack) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  auto client = Connect(*cluster, {.deadline_ms = 300});
  ASSERT_NE(client, nullptr);
  // A deadline this short is for what fails: on a slow machine rows may take longer at first.
  ExpectOnlyRightRows(client->ReadUntilAllCome(10, seconds(20)));

  cluster->node(1).Stop(SIGKILL);
  ReadTally during;
  client->Read(5, &during);
  EXPECT_EQ(during.rows_wrong, 0u);
  EXPECT_EQ(during.batches_failed, 5u);  // 16 tokens have 768 rows: each node holds some
  for (const Status& failure : during.failures) {
    EXPECT_TRUE(failure.code() == StatusCode::kUnavailable ||
                failure.code() == StatusCode::kDeadlineExceeded ||
                failure.code() == StatusCode::kPeerLost)
        << failure.ToString();
    EXPECT_NE(failure.message().find("m1"), std::string::npos) << failure.ToString();
  }

  const Status restarted = cluster->RestartNode(1);
  ASSERT_TRUE(restarted.ok()) << restarted.ToString();
  const Status ready = cluster->WaitReady();
  ASSERT_TRUE(ready.ok()) << ready.ToString();
  ExpectOnlyRightRows(client->ReadUntilAllCome(10, seconds(20)));
}

TEST(ClusterTest, ReadsGoOnWhileTheCoordinatorIsKilledAndRestarted) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  auto client = Connect(*cluster);
  ASSERT_NE(client, nullptr);
  std::atomic<bool> stop{false};
  ReadTally tally;
  std::thread reader([&] {
    while (!stop.load()) client->Read(1, &tally);
  });
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(milliseconds(300));
    cluster->coordinator().Stop(SIGKILL);
    std::this_thread::sleep_for(milliseconds(500));
    const Status restarted = cluster->RestartCoordinator();
    EXPECT_TRUE(restarted.ok()) << restarted.ToString();
  }
  const Status ready = cluster->WaitReady();
  EXPECT_TRUE(ready.ok()) << ready.ToString();
  std::this_thread::sleep_for(milliseconds(500));
  stop.store(true);
  reader.join();
  ExpectOnlyRightRows(tally);
  EXPECT_GT(tally.batches_ok, 20u);
  // A newcomer finds the same cluster.
  auto second = Connect(*cluster);
  ASSERT_NE(second, nullptr);
  ReadTally newcomer;
  second->Read(10, &newcomer);
  ExpectOnlyRightRows(newcomer);
}

TEST(ClusterTest, AFlippedByteIsFoundByReadersAndReportedNeverDelivered) {
  auto cluster = StartCluster({.node_arguments = {"--scrub-rate", "0"}});
  ASSERT_NE(cluster, nullptr);
  // Else it is repaired before the reader gives up.
  for (int i = 0; i < cluster->node_count(); ++i) {
    EXPECT_EQ(HttpCall(cluster->node_http(i), "POST", "/test/pause_loading?paused=1").status, 200);
  }
  // Row 5 of slot 0 on the node that has it.
  int holder = -1;
  for (int i = 0; i < cluster->node_count(); ++i) {
    const HttpReply reply =
        HttpCall(cluster->node_http(i), "POST", "/test/flip_byte?version=1&slot=0&row=5&byte=17");
    if (reply.status == 200) holder = i;
  }
  ASSERT_GE(holder, 0);
  const CommandOutput verified =
      cluster->Ctl({"verify", "--model", cluster->model_dir().string(), "--all"});
  EXPECT_EQ(verified.exit_status, 1) << verified.out;
  EXPECT_NE((verified.out + verified.err).find("CORRUPT"), std::string::npos)
      << verified.out << verified.err;
  const auto until = std::chrono::steady_clock::now() + seconds(10);
  uint64_t reports = 0;
  while (reports == 0 && std::chrono::steady_clock::now() < until) {
    const CommandOutput status = cluster->Ctl({"status", "--json"});
    ASSERT_EQ(status.exit_status, 0) << status.err;
    reports = nlohmann::json::parse(status.out)["versions"][0]["damaged_slot_reports"];
    std::this_thread::sleep_for(milliseconds(50));
  }
  EXPECT_GT(reports, 0u);
}

TEST(ClusterTest, AClientOfAnotherModelIsRefused) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  const auto other = cluster->scratch() / "other";
  const Status made = MakeTinyModel(other, "v41", 3000, 1);
  ASSERT_TRUE(made.ok()) << made.ToString();
  const CommandOutput verified =
      cluster->Ctl({"verify", "--model", other.string(), "--sample", "5"});
  EXPECT_EQ(verified.exit_status, 1);
  EXPECT_NE((verified.out + verified.err).find("WRONG_MODEL"), std::string::npos)
      << verified.out << verified.err;
}

struct WayCase {
  const char* transport;
  const char* one_sided;
  const char* way;

  // CTest takes the printed parameter into the test's name.
  friend std::ostream& operator<<(std::ostream& out, const WayCase& way_case) {
    return out << way_case.transport << " " << way_case.way;
  }
};
class WayClusterTest : public testing::TestWithParam<WayCase> {};

TEST_P(WayClusterTest, ForcedWayReadsRightRows) {
  const WayCase& way = GetParam();
  auto cluster = StartCluster({.transport = way.transport, .one_sided = way.one_sided});
  ASSERT_NE(cluster, nullptr);
  auto client =
      Connect(*cluster, {.transport = way.transport, .way = way.way, .one_sided = way.one_sided});
  ASSERT_NE(client, nullptr);
  ReadTally tally;
  client->Read(30, &tally);
  ExpectOnlyRightRows(tally);
}
INSTANTIATE_TEST_SUITE_P(
    Ways, WayClusterTest,
    testing::Values(WayCase{"tcp", "off", "gather"}, WayCase{"shm", "off", "gather"},
                    WayCase{"shm", "off", "mapped"}, WayCase{"shm", "shm", "one-sided"}),
    [](const auto& way_case) {
      std::string name = std::string(way_case.param.transport) + "_" + way_case.param.way;
      for (char& c : name) c = c == '-' ? '_' : c;
      return name;
    });

// This machine has none.
TEST(ClusterTest, ForcedOneSidedReadsMeanACard) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  const auto client = ReadingClient::Create(*cluster, {.way = "one-sided"});
  ASSERT_FALSE(client.has_value());
  EXPECT_NE(client.error().message().find("'rdma'"), std::string::npos)
      << client.error().ToString();
}

// What stands for a GPU is memory of this process.
TEST(LandingClusterTest, RowsLandAndAreRight) {
  HostLanding landing;
  auto cluster = StartCluster({.transport = "shm", .one_sided = "shm"});
  ASSERT_NE(cluster, nullptr);
  auto client = Connect(*cluster, {.transport = "shm",
                                   .way = "one-sided",
                                   .one_sided = "shm",
                                   .deadline_ms = 10'000,
                                   .landing = &landing});
  ASSERT_NE(client, nullptr);
  ReadTally tally;
  client->Read(30, &tally);
  ExpectOnlyRightRows(tally);
  const RowSourceStats stats = client->remote().Stats();
  EXPECT_EQ(stats.rows_landed, stats.rows_read);
  EXPECT_EQ(stats.rows_verified, landing.kept);

  // Reads in flight end with the node; what is read again when it is back lands too.
  cluster->node(0).Stop(SIGKILL);
  ReadTally meanwhile;
  client->Read(1, &meanwhile);
  EXPECT_EQ(meanwhile.rows_wrong, 0u);
  ASSERT_TRUE(cluster->RestartNode(0).ok());
  const ReadTally after = client->ReadUntilAllCome(10, std::chrono::seconds(60));
  ExpectOnlyRightRows(after);
  client.reset();
  EXPECT_EQ(landing.blocks, 0u);
}

TEST(LandingClusterTest, WithoutWhatItNeedsRowsAreStaged) {
  HostLanding landing;
  landing.claims_gpu = true;
  auto cluster = StartCluster({.transport = "shm", .one_sided = "shm"});
  ASSERT_NE(cluster, nullptr);
  for (const char* const one_sided : {"shm", "rdma", "off"}) {
    auto client =
        Connect(*cluster, {.transport = "shm", .one_sided = one_sided, .landing = &landing});
    ASSERT_NE(client, nullptr);
    ReadTally tally;
    client->Read(5, &tally);
    ExpectOnlyRightRows(tally);
    EXPECT_EQ(client->remote().Stats().rows_landed, 0u);
    EXPECT_EQ(landing.kept, 0u);
  }
}

TEST(ClusterTest, EveryProcessEndsCleanlyOnSigterm) {
  auto cluster = StartCluster();
  ASSERT_NE(cluster, nullptr);
  auto client = Connect(*cluster);
  ASSERT_NE(client, nullptr);
  for (int i = 0; i < cluster->node_count(); ++i) {
    EXPECT_EQ(cluster->node(i).Stop(SIGTERM), 0) << cluster->NodeLog(i);
  }
  EXPECT_EQ(cluster->coordinator().Stop(SIGTERM), 0) << cluster->CoordinatorLog();
}

}  // namespace
}  // namespace engram::test
