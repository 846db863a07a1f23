#include "tools/status_text.h"

#include <algorithm>
#include <array>
#include <vector>

#include "engram/base/text_table.h"
#include "tools/command.h"

namespace engram {
namespace {

std::string Of(uint64_t part, uint64_t whole) {
  return std::to_string(part) + "/" + std::to_string(whole);
}

std::string SecondsText(uint64_t milliseconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(milliseconds) / 1000);
  return text.data();
}

std::string NodeState(const proto::NodeStatus& node) {
  std::string state = node.up() ? "up" : node.lost() ? "LOST" : "DOWN";
  if (!node.draining()) return state;
  return state +
         (node.assigned_slots() == 0 && node.releasing_bytes() == 0 ? ", drained" : ", draining");
}

// "12 in, 3 out, 1.20 MiB/s": what moves to and from a node.
std::string MovesText(const proto::NodeStatus& node) {
  if (node.incoming_slots() == 0 && node.outgoing_slots() == 0 && node.releasing_bytes() == 0) {
    return "-";
  }
  std::string text = std::to_string(node.incoming_slots()) + " in, " +
                     std::to_string(node.outgoing_slots()) + " out";
  if (node.copy_bytes_per_s() > 0) text += ", " + BytesText(node.copy_bytes_per_s()) + "/s";
  if (node.releasing_bytes() > 0) text += ", releasing " + BytesText(node.releasing_bytes());
  return text;
}

// "38 moves, 92.00 MiB, 12 s left": at the rate of all nodes together.
std::string MovesText(const proto::VersionStatus& version, uint64_t bytes_per_s) {
  if (version.moves_pending() == 0) return "-";
  std::string text = std::to_string(version.moves_pending()) + " moves, " +
                     BytesText(version.move_bytes_pending());
  if (bytes_per_s > 0) {
    text += ", " + std::to_string(version.move_bytes_pending() / bytes_per_s + 1) + " s left";
  }
  return text;
}

// "2", or "1 of 2" while memory is short.
std::string ReplicasText(const proto::VersionStatus& version) {
  std::string all = std::to_string(version.replica_count());
  if (version.replicas_wanted() == 0 || version.replicas_wanted() == version.replica_count()) {
    return all;
  }
  return std::to_string(version.replicas_wanted()) + " of " + all;
}

}  // namespace

std::string StatusText(const proto::GetStatusReply& status) {
  std::string text;
  uint64_t copy_bytes_per_s = 0;
  for (const auto& node : status.nodes()) copy_bytes_per_s += node.copy_bytes_per_s();
  if (status.follower()) {
    text += "No coordinator leads now. This is from one that follows: state of " +
            SecondsText(status.state_age_ms()) + " ago; what nodes report is not known there.\n\n";
  }
  if (status.versions().empty()) {
    text += "No table version. Make one: engramctl create-version --model DIR\n";
  } else {
    std::vector<TableRow> rows = {{"VERSION", "STATE", "SLOTS READY", "LOADED", "REPLICAS", "EPOCH",
                                   "TO MOVE", "DAMAGE REPORTS", "CHECKPOINT"}};
    for (const auto& version : status.versions()) {
      std::string state = version.ready_slots() == version.slot_count() ? "ready" : "loading";
      if (version.current()) state += ", current";
      if (version.previous()) state += ", previous";
      rows.push_back({std::to_string(version.version()), state,
                      Of(version.ready_slots(), version.slot_count()),
                      BytesText(version.bytes_loaded()) + " of " + BytesText(version.total_bytes()),
                      ReplicasText(version), std::to_string(version.epoch()),
                      MovesText(version, copy_bytes_per_s),
                      std::to_string(version.damaged_slot_reports()), version.checkpoint_path()});
    }
    text += TextTable(rows);
  }
  for (const auto& version : status.versions()) {
    if (version.replicas_missing() > 0) {
      text += "Version " + std::to_string(version.version()) + ": " +
              std::to_string(version.replicas_missing()) + " replicas are missing\n";
    }
    if (!version.plan_problem().empty()) {
      text += "Version " + std::to_string(version.version()) +
              " stays where it is: " + version.plan_problem() + "\n";
    }
  }
  return text + "\n" + NodesText(status);
}

std::string NodesText(const proto::GetStatusReply& status) {
  if (status.nodes().empty()) {
    return "No memory node. Start one: engram-shard-server --id NAME --coordinator ADDR\n";
  }
  std::vector<TableRow> rows = {{"NODE", "STATE", "ZONE", "SLOTS READY", "ASSIGNED", "CAPACITY",
                                 "MOVES", "HEARTBEAT", "CORRUPT ROWS", "REPAIRED", "ADDRESS",
                                 "ERROR"}};
  for (const auto& node : status.nodes()) {
    rows.push_back({node.id(), NodeState(node), node.zone().empty() ? "-" : node.zone(),
                    Of(node.ready_slots(), node.assigned_slots()), BytesText(node.assigned_bytes()),
                    BytesText(node.capacity_bytes()), MovesText(node),
                    SecondsText(node.last_heartbeat_age_ms()),
                    std::to_string(node.corrupt_rows_found()), std::to_string(node.rows_repaired()),
                    node.address(), node.error().empty() ? "-" : node.error()});
  }
  return TextTable(rows);
}

std::string DrainText(const proto::NodeStatus& node) {
  std::string text = "node " + node.id() + ": " + std::to_string(node.assigned_slots()) +
                     " slots, " + BytesText(node.assigned_bytes()) + " still to move away";
  if (node.releasing_bytes() > 0) {
    text += ", " + BytesText(node.releasing_bytes()) + " kept for readers";
  }
  return text;
}

std::string LoadText(const proto::VersionStatus& version) {
  return "version " + std::to_string(version.version()) + ": " +
         std::to_string(version.ready_slots()) + " of " + std::to_string(version.slot_count()) +
         " slots ready, " + BytesText(version.bytes_loaded()) + " of " +
         BytesText(version.total_bytes());
}

}  // namespace engram
