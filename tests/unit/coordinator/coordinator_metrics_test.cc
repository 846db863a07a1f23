#include "coordinator/coordinator_metrics.h"

#include <memory>
#include <string>

#include <boost/asio/system_executor.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

namespace engram {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

proto::GetStatusReply SomeStatus() {
  proto::GetStatusReply status;
  status.set_term(3);
  status.add_nodes()->set_up(true);
  status.add_nodes()->set_lost(true);
  proto::VersionStatus& version = *status.add_versions();
  version.set_version(2);
  version.set_current(true);
  version.set_epoch(11);
  version.set_slot_count(100);
  version.set_ready_slots(90);
  version.set_move_bytes_pending(4096);
  version.set_replicas_missing(10);
  version.set_plan_problem("no memory");
  return status;
}

std::shared_ptr<const HeldCalls> NoCalls() {
  return std::make_shared<const HeldCalls>(boost::asio::system_executor(), HeldCalls::Options());
}

std::string Page(const CoordinatorMetrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.Collect());
}

TEST(CoordinatorMetricsTest, LeaderTellsOfNodesAndVersions) {
  CoordinatorMetrics metrics(SomeStatus, NoCalls());
  metrics.CountCall("node.Heartbeat", StatusCode::kOk);
  metrics.CountCall("node.Heartbeat", StatusCode::kOk);
  metrics.CountDamageReport();
  EXPECT_THAT(
      Page(metrics),
      AllOf(
          HasSubstr("engram_coordinator_calls_total{method=\"node.Heartbeat\",outcome=\"OK\"} 2\n"),
          HasSubstr("engram_coordinator_damaged_slot_reports_total 1\n"),
          HasSubstr("engram_coordinator_leading 1\n"), HasSubstr("engram_coordinator_term 3\n"),
          HasSubstr("engram_coordinator_nodes_known 2\n"),
          HasSubstr("engram_coordinator_nodes_up 1\n"),
          HasSubstr("engram_coordinator_nodes_lost 1\n"),
          HasSubstr("engram_coordinator_shard_map_epoch{version=\"2\"} 11\n"),
          HasSubstr("engram_coordinator_slots_ready{version=\"2\"} 90\n")));
  EXPECT_THAT(Page(metrics),
              AllOf(HasSubstr("engram_coordinator_move_pending_bytes{version=\"2\"} 4096\n"),
                    HasSubstr("engram_coordinator_replicas_missing{version=\"2\"} 10\n"),
                    HasSubstr("engram_coordinator_plan_problem{version=\"2\"} 1\n")));
}

TEST(CoordinatorMetricsTest, FollowerTellsHowOldItsStateIsAndNothingOfNodes) {
  const CoordinatorMetrics metrics(
      [] {
        proto::GetStatusReply status = SomeStatus();
        status.set_follower(true);
        status.set_state_age_ms(2500);
        return status;
      },
      NoCalls());
  EXPECT_THAT(Page(metrics), AllOf(HasSubstr("engram_coordinator_leading 0\n"),
                                   HasSubstr("engram_coordinator_term 0\n"),
                                   HasSubstr("engram_coordinator_state_age_seconds 2.5\n"),
                                   Not(HasSubstr("engram_coordinator_slots")),
                                   Not(HasSubstr("engram_coordinator_nodes"))));
}

}  // namespace
}  // namespace engram
