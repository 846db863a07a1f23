#include "coordinator/coordinator_metrics.h"

#include <algorithm>
#include <utility>

#include "coordinator/desired_nodes.h"
#include "engram/metrics/family_writer.h"

namespace engram {
namespace {

void WriteNodes(const proto::GetStatusReply& status, FamilyWriter* out) {
  const auto gauge = [&](const char* name, const char* help, auto holds) {
    out->Gauge(name, help, std::count_if(status.nodes().begin(), status.nodes().end(), holds));
  };
  using Node = proto::NodeStatus;
  gauge("engram_coordinator_nodes_known", "Memory nodes that ever registered.",
        [](const Node&) { return true; });
  gauge("engram_coordinator_nodes_up", "Memory nodes heard of lately.",
        [](const Node& node) { return node.up(); });
  gauge("engram_coordinator_nodes_lost", "Memory nodes down for so long that their slots move.",
        [](const Node& node) { return node.lost(); });
  gauge("engram_coordinator_nodes_draining", "Memory nodes that an operator empties, or emptied.",
        [](const Node& node) { return node.draining(); });
  out->Gauge("engram_coordinator_desired_memory_nodes",
             "Memory nodes recommended for what there is to hold; 0 = nothing is known.",
             DesiredMemoryNodes(status));
}

void WriteVersions(const proto::GetStatusReply& status, FamilyWriter* out) {
  using Version = proto::VersionStatus;
  const auto gauge = [&](const char* name, const char* help, auto value) {
    for (const Version& version : status.versions()) {
      out->Gauge(name, help, value(version), {{"version", std::to_string(version.version())}});
    }
  };
  gauge("engram_coordinator_version_current", "1 for the version that clients follow.",
        [](const Version& version) { return version.current() ? 1 : 0; });
  gauge("engram_coordinator_shard_map_epoch", "The newest epoch published.",
        [](const Version& version) { return version.epoch(); });
  gauge("engram_coordinator_slots", "Slots.",
        [](const Version& version) { return version.slot_count(); });
  gauge("engram_coordinator_slots_ready", "Slots with a ready replica: the others cannot be read.",
        [](const Version& version) { return version.ready_slots(); });
  gauge("engram_coordinator_table_bytes", "Stored bytes of every replica wanted.",
        [](const Version& version) { return version.total_bytes(); });
  gauge("engram_coordinator_loaded_bytes",
        "Of these, loaded by memory nodes: progress is loaded / table.",
        [](const Version& version) { return version.bytes_loaded(); });
  gauge("engram_coordinator_replicas_wanted",
        "Replicas of a slot that are wanted now; fewer than were asked for while memory is short.",
        [](const Version& version) { return version.replicas_wanted(); });
  gauge("engram_coordinator_replicas_missing",
        "Replicas of slots that are wanted and that no memory node has.",
        [](const Version& version) { return version.replicas_missing(); });
  gauge("engram_coordinator_moves_pending", "Replicas that are to move to another memory node.",
        [](const Version& version) { return version.moves_pending(); });
  gauge("engram_coordinator_move_pending_bytes", "Bytes of these.",
        [](const Version& version) { return version.move_bytes_pending(); });
  gauge("engram_coordinator_plan_problem", "1 where no plan for moves can be made.",
        [](const Version& version) { return version.plan_problem().empty() ? 0 : 1; });
  for (const Version& version : status.versions()) {
    out->Counter("engram_coordinator_moved_bytes_total", "Bytes moved in this coordinator's term.",
                 version.move_bytes_done(), {{"version", std::to_string(version.version())}});
  }
}

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(std::function<proto::GetStatusReply()> status,
                                       std::shared_ptr<const HeldCalls> held)
    : status_(std::move(status)),
      held_(std::move(held)),
      calls_(&prometheus::BuildCounter()
                  .Name("engram_coordinator_calls_total")
                  .Help("Control calls answered, by method and outcome.")
                  .Register(registry_)),
      damage_reports_(&prometheus::BuildCounter()
                           .Name("engram_coordinator_damaged_slot_reports_total")
                           .Help("Reports of readers that found damaged rows.")
                           .Register(registry_)
                           .Add({})) {}

void CoordinatorMetrics::CountCall(const std::string& method, StatusCode outcome) {
  calls_->Add({{"method", method}, {"outcome", std::string(StatusCodeName(outcome))}}).Increment();
}

std::vector<prometheus::MetricFamily> CoordinatorMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families = registry_.Collect();
  FamilyWriter out(&families);
  const proto::GetStatusReply status = status_();
  const bool leads = !status.follower();
  out.Gauge("engram_coordinator_held_calls", "Calls that wait for a change.",
            static_cast<double>(held_->count()));
  out.Counter("engram_coordinator_held_call_wakes_total",
              "Times that such a call looked again: at a change, or when its own time was up.",
              static_cast<double>(held_->wakes()));
  out.Gauge("engram_coordinator_leading", "1 where this coordinator leads.", leads ? 1 : 0);
  out.Gauge("engram_coordinator_term", "This coordinator's term; 0 = it follows.",
            leads ? status.term() : 0);
  out.Gauge("engram_coordinator_state_age_seconds",
            "How long a follower has not known whether its state is the newest; 0 = it leads.",
            static_cast<double>(status.state_age_ms()) / 1000.0);
  if (!leads) return families;
  WriteNodes(status, &out);
  WriteVersions(status, &out);
  return families;
}

}  // namespace engram
