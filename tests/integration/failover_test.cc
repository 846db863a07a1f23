// Several coordinators on a real etcd: one is lost, another takes over, reads go on.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <signal.h>

#include "coordinator/etcd_client.h"
#include "coordinator/etcd_records.h"
#include "engram/rpc/rpc_client.h"
#include "proto/admin.pb.h"
#include "tests/integration/reading_client.h"
#include "tests/support/etcd_process.h"
#include "tests/support/test_cluster.h"

namespace engram::test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

class FailoverTest : public testing::TestWithParam<int> {
 protected:
  void SetUp() override {
    if (EtcdProcess::Program().empty()) {
      GTEST_SKIP() << "etcd is not installed: run deploy/install-deps";
    }
    auto etcd = EtcdProcess::Start(GetParam());
    ASSERT_TRUE(etcd.has_value()) << etcd.error().ToString();
    etcd_ = *std::move(etcd);
    ClusterOptions options;
    options.nodes = 2;
    options.coordinators = 3;
    options.store = etcd_->StoreAddress("test");
    auto cluster = TestCluster::Start(options);
    ASSERT_TRUE(cluster.has_value()) << cluster.error().ToString();
    cluster_ = *std::move(cluster);
    auto client = ReadingClient::Create(*cluster_, {});
    ASSERT_TRUE(client.has_value()) << client.error().ToString();
    client_ = *std::move(client);
    reader_ = std::thread([this] {
      while (!stop_.load()) client_->Read(1, &tally_);
    });
  }
  void TearDown() override {
    if (!HasFailure() || cluster_ == nullptr) return;
    for (int i = 0; i < cluster_->coordinator_count(); ++i) {
      std::fprintf(stderr, "---- c%d\n%s", i, cluster_->CoordinatorLog(i).c_str());
    }
    for (int i = 0; i < cluster_->node_count(); ++i) {
      std::fprintf(stderr, "---- m%d\n%s", i, cluster_->NodeLog(i).c_str());
    }
  }
  ~FailoverTest() override { EndReading(); }

  void EndReading() {
    stop_.store(true);
    if (reader_.joinable()) reader_.join();
  }
  // Every row that was read was right, and none was missed.
  void ExpectReadsWentOn() {
    EndReading();
    EXPECT_EQ(tally_.rows_wrong, 0u);
    EXPECT_EQ(tally_.batches_failed, 0u)
        << (tally_.failures.empty() ? "" : tally_.failures[0].ToString());
    EXPECT_GT(tally_.batches_ok, 100u);
  }

  // What this very coordinator answers; it may name a leader that does not answer.
  std::optional<proto::GetStatusReply> StatusOf(int i) {
    const std::string address = cluster_->coordinator_address(i);
    boost::asio::io_context io;
    std::optional<proto::GetStatusReply> status;
    boost::asio::co_spawn(
        io,
        [&]() -> boost::asio::awaitable<void> {
          auto client = co_await RpcClient::Connect(io.get_executor(), address, milliseconds(1000));
          if (!client.has_value()) co_return;
          auto reply = co_await (*client)->Call<proto::GetStatusReply>(
              "admin.GetStatus", proto::GetStatusRequest(), milliseconds(1000));
          if (reply.has_value()) status = *std::move(reply);
          (*client)->Close();
        },
        boost::asio::detached);
    io.run();
    return status;
  }
  // The coordinator that leads, other than `not_this`; -1 when none does within 10 s.
  int AwaitLeader(int not_this = -1) {
    const auto began = Clock::now();
    while (Clock::now() - began < seconds(10)) {
      for (int i = 0; i < cluster_->coordinator_count(); ++i) {
        if (i == not_this) continue;
        const auto status = StatusOf(i);
        if (status.has_value() && !status->follower()) return i;
      }
      std::this_thread::sleep_for(milliseconds(10));
    }
    return -1;
  }
  // It follows, and has read so many versions: what the leader wrote reaches it a moment later.
  bool AwaitFollower(int i, int versions = 1) {
    const auto began = Clock::now();
    while (Clock::now() - began < seconds(10)) {
      const auto status = StatusOf(i);
      if (status.has_value() && status->follower() && status->versions_size() >= versions) {
        return true;
      }
      std::this_thread::sleep_for(milliseconds(10));
    }
    return false;
  }
  static void Tell(const char* what, Clock::time_point since) {
    const auto ms = std::chrono::duration_cast<milliseconds>(Clock::now() - since).count();
    std::printf("%s after %lld ms\n", what, static_cast<long long>(ms));
    testing::Test::RecordProperty(what, static_cast<int>(ms));
  }
  // Every record that is in etcd, and who wrote last.
  std::string EtcdContents() {
    EtcdClient client({.endpoints = etcd_->endpoints()});
    const auto range =
        client.Range(EtcdOp::Range("test/", EndOfPrefix("test/")), Clock::now() + seconds(5));
    EXPECT_TRUE(range.has_value()) << range.error().ToString();
    std::string all;
    for (const EtcdKeyValue& key : range->keys) {
      all += key.key + "=" + key.value + "@" + std::to_string(key.mod_revision) + "\n";
    }
    return all;
  }

  std::unique_ptr<EtcdProcess> etcd_;
  std::unique_ptr<TestCluster> cluster_;
  std::unique_ptr<ReadingClient> client_;
  std::atomic<bool> stop_{false};
  ReadTally tally_;  // the reader's, until it ended
  std::thread reader_;
};

TEST_P(FailoverTest, AKilledLeaderIsSucceededReadsGoOnAndItComesBackAsAFollower) {
  const int first = AwaitLeader();
  ASSERT_GE(first, 0);
  const uint64_t term = StatusOf(first)->term();
  for (int i = 0; i < 3; ++i) {
    if (i == first) continue;
    ASSERT_TRUE(AwaitFollower(i));
    EXPECT_EQ(StatusOf(i)->leader(), cluster_->coordinator_address(first));
    EXPECT_EQ(StatusOf(i)->versions_size(), 1);
  }
  const auto killed = Clock::now();
  cluster_->coordinator(first).Stop(SIGKILL);
  const int second = AwaitLeader(first);
  ASSERT_GE(second, 0);
  Tell("another coordinator leads", killed);
  EXPECT_LT(Clock::now() - killed, seconds(10));
  EXPECT_GT(StatusOf(second)->term(), term);
  // The nodes found it, and told what they hold.
  const Status ready = cluster_->WaitReady();
  ASSERT_TRUE(ready.ok()) << ready.ToString();
  Tell("every slot is ready again", killed);
  // A node registers and loads under it.
  std::this_thread::sleep_for(milliseconds(500));
  const Status nothing_lost = cluster_->WaitReady();
  EXPECT_TRUE(nothing_lost.ok()) << nothing_lost.ToString();
  const proto::GetStatusReply nodes_status = StatusOf(second).value_or(proto::GetStatusReply());
  EXPECT_EQ(nodes_status.nodes_size(), 2);
  for (const auto& node : nodes_status.nodes()) EXPECT_TRUE(node.up()) << node.id();
  ExpectReadsWentOn();
  cluster_->node(1).Stop(SIGKILL);
  const Status restarted = cluster_->RestartNode(1);
  ASSERT_TRUE(restarted.ok()) << restarted.ToString();
  const Status reloaded = cluster_->WaitReady();
  ASSERT_TRUE(reloaded.ok()) << reloaded.ToString();
  // The old leader starts again: it follows.
  const Status back = cluster_->RestartCoordinator(first);
  ASSERT_TRUE(back.ok()) << back.ToString();
  EXPECT_TRUE(AwaitFollower(first));
  EXPECT_FALSE(StatusOf(second)->follower());
  // A newcomer that knows the follower alone reads every row.
  const CommandOutput verified = RunCommand({std::string(ENGRAM_BIN_DIR) + "/engramctl", "verify",
                                             "--model", cluster_->model_dir().string(), "--all",
                                             "--coordinator", cluster_->coordinator_address(first)},
                                            seconds(60));
  EXPECT_EQ(verified.exit_status, 0) << verified.out << verified.err;
}

TEST_P(FailoverTest, ALeaderThatSleptPastItsLeaseChangesNothing) {
  const int first = AwaitLeader();
  ASSERT_GE(first, 0);
  const auto stopped = Clock::now();
  cluster_->coordinator(first).Signal(SIGSTOP);
  const int second = AwaitLeader(first);
  ASSERT_GE(second, 0);
  Tell("another coordinator leads", stopped);
  const uint64_t term = StatusOf(second)->term();
  const Status ready = cluster_->WaitReady();
  ASSERT_TRUE(ready.ok()) << ready.ToString();
  Tell("every slot is ready again", stopped);
  // A client asks it for a change while it sleeps: it finds the question when it wakes.
  CommandOutput created;
  std::thread asking([&] {
    created = RunCommand(
        {std::string(ENGRAM_BIN_DIR) + "/engramctl", "create-version", "--model",
         cluster_->model_dir().string(), "--coordinator", cluster_->coordinator_address(first)},
        seconds(60));
  });
  std::this_thread::sleep_for(milliseconds(1000));
  const std::string before = EtcdContents();
  cluster_->coordinator(first).Signal(SIGCONT);
  EXPECT_TRUE(AwaitFollower(first));
  asking.join();
  // It refused; or, where it knew the leader already, named it, and that one did what was asked.
  if (created.exit_status != 0) {
    EXPECT_NE(created.err.find("UNAVAILABLE"), std::string::npos) << created.err;
  }
  EXPECT_EQ(StatusOf(second)->versions_size(), created.exit_status == 0 ? 2 : 1);
  EXPECT_EQ(StatusOf(second)->term(), term);
  EXPECT_NE(cluster_->CoordinatorLog(first).find("leads no longer"), std::string::npos);
  EXPECT_NE(EtcdContents().find("test/commit=" + std::to_string(term) + "/"), std::string::npos);
  EXPECT_NE(before.find("test/commit=" + std::to_string(term) + "/"), std::string::npos);
  ExpectReadsWentOn();
}

TEST_P(FailoverTest, ReadsGoOnWhileEtcdIsAwayAndChangesComeBackWithIt) {
  ASSERT_GE(AwaitLeader(), 0);
  for (int i = 0; i < GetParam(); ++i) etcd_->member(i).Stop(SIGKILL);
  std::this_thread::sleep_for(seconds(5));  // longer than the lease
  for (int i = 0; i < 3; ++i) {
    EXPECT_TRUE(cluster_->coordinator(i).running()) << cluster_->CoordinatorLog(i);
  }
  const auto back = Clock::now();
  // All at once: one alone has no majority.
  std::vector<std::thread> restarts;
  for (int i = 0; i < GetParam(); ++i) {
    restarts.emplace_back([this, i] {
      const Status status = etcd_->RestartMember(i);
      EXPECT_TRUE(status.ok()) << status.ToString();
    });
  }
  for (std::thread& restart : restarts) restart.join();
  const int leader = AwaitLeader();
  ASSERT_GE(leader, 0);
  const Status ready = cluster_->WaitReady();
  EXPECT_TRUE(ready.ok()) << ready.ToString();
  Tell("every slot is ready after etcd came back", back);
  ExpectReadsWentOn();
}

INSTANTIATE_TEST_SUITE_P(EtcdMembers, FailoverTest, testing::Values(1, 3),
                         [](const auto& members) { return std::to_string(members.param); });

}  // namespace
}  // namespace engram::test
