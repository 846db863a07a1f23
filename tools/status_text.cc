#include "tools/status_text.h"

#include <algorithm>
#include <array>
#include <vector>

#include "tools/command.h"

namespace engram {
namespace {

using Row = std::vector<std::string>;

// The first row is the head. Columns are padded to their widest cell.
std::string Table(const std::vector<Row>& rows) {
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - row[i].size() + 2, ' ');
    }
    text += "\n";
  }
  return text;
}

std::string Of(uint64_t part, uint64_t whole) {
  return std::to_string(part) + "/" + std::to_string(whole);
}

std::string SecondsText(uint64_t milliseconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f s", static_cast<double>(milliseconds) / 1000);
  return text.data();
}

}  // namespace

std::string StatusText(const proto::GetStatusReply& status) {
  std::string text;
  if (status.versions().empty()) {
    text += "No table version. Make one: engramctl create-version --model DIR\n";
  } else {
    std::vector<Row> rows = {{"VERSION", "STATE", "SLOTS READY", "LOADED", "REPLICAS", "EPOCH",
                              "DAMAGE REPORTS", "CHECKPOINT"}};
    for (const auto& version : status.versions()) {
      std::string state = version.ready_slots() == version.slot_count() ? "ready" : "loading";
      if (version.current()) state += ", current";
      rows.push_back({std::to_string(version.version()), state,
                      Of(version.ready_slots(), version.slot_count()),
                      BytesText(version.bytes_loaded()) + " of " + BytesText(version.total_bytes()),
                      std::to_string(version.replica_count()), std::to_string(version.epoch()),
                      std::to_string(version.damaged_slot_reports()), version.checkpoint_path()});
    }
    text += Table(rows);
  }
  text += "\n";
  if (status.nodes().empty()) {
    return text + "No memory node. Start one: engram-shard-server --id NAME --coordinator ADDR\n";
  }
  std::vector<Row> rows = {{"NODE", "STATE", "ZONE", "SLOTS READY", "ASSIGNED", "CAPACITY",
                            "HEARTBEAT", "CORRUPT ROWS", "ADDRESS", "ERROR"}};
  for (const auto& node : status.nodes()) {
    rows.push_back({node.id(), node.up() ? "up" : "DOWN", node.zone().empty() ? "-" : node.zone(),
                    Of(node.ready_slots(), node.assigned_slots()), BytesText(node.assigned_bytes()),
                    BytesText(node.capacity_bytes()), SecondsText(node.last_heartbeat_age_ms()),
                    std::to_string(node.corrupt_rows_found()), node.address(),
                    node.error().empty() ? "-" : node.error()});
  }
  return text + Table(rows);
}

std::string LoadText(const proto::VersionStatus& version) {
  return "version " + std::to_string(version.version()) + ": " +
         std::to_string(version.ready_slots()) + " of " + std::to_string(version.slot_count()) +
         " slots ready, " + BytesText(version.bytes_loaded()) + " of " +
         BytesText(version.total_bytes());
}

}  // namespace engram
