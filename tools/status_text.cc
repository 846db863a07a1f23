#include "tools/status_text.h"

#include <algorithm>
#include <array>
#include <vector>

#include "tools/command.h"

namespace engram {
namespace {

using nlohmann::ordered_json;

ordered_json NodeJson(const proto::NodeStatus& node) {
  return {{"id", node.id()},
          {"zone", node.zone()},
          {"address", node.address()},
          {"http_address", node.http_address()},
          {"incarnation", node.incarnation()},
          {"up", node.up()},
          {"capacity_bytes", node.capacity_bytes()},
          {"assigned_bytes", node.assigned_bytes()},
          {"assigned_slots", node.assigned_slots()},
          {"ready_slots", node.ready_slots()},
          {"last_heartbeat_age_ms", node.last_heartbeat_age_ms()},
          {"corrupt_rows_found", node.corrupt_rows_found()},
          {"error", node.error()}};
}

ordered_json SpecJson(const proto::TableSpec& spec) {
  const proto::HashSpec& hash = spec.hash();
  return {{"variant", hash.variant()},
          {"max_ngram_size", hash.max_ngram_size()},
          {"head_count", hash.head_count()},
          {"base_sizes", std::vector<int64_t>(hash.base_sizes().begin(), hash.base_sizes().end())},
          {"layer_ids", std::vector<int32_t>(hash.layer_ids().begin(), hash.layer_ids().end())},
          {"compressed_vocab_size", hash.compressed_vocab_size()},
          {"pad_id", hash.pad_id()},
          {"seed", hash.seed()},
          {"row_format", spec.row_format()},
          {"row_values", spec.row_values()}};
}

ordered_json VersionJson(const proto::VersionStatus& version) {
  return {{"version", version.version()},
          {"current", version.current()},
          {"checkpoint_path", version.checkpoint_path()},
          {"model_identity_hex", version.model_identity_hex()},
          {"epoch", version.epoch()},
          {"replica_count", version.replica_count()},
          {"slot_count", version.slot_count()},
          {"ready_slots", version.ready_slots()},
          {"total_bytes", version.total_bytes()},
          {"bytes_loaded", version.bytes_loaded()},
          {"damaged_slot_reports", version.damaged_slot_reports()},
          {"spec", SpecJson(version.spec())}};
}

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

ordered_json StatusJson(const proto::GetStatusReply& status) {
  ordered_json document;
  document["term"] = status.term();
  if (status.follower()) {
    document["follower"] = true;
    document["leader"] = status.leader();
    document["state_age_ms"] = status.state_age_ms();
  }
  document["nodes"] = ordered_json::array();
  for (const auto& node : status.nodes()) document["nodes"].push_back(NodeJson(node));
  document["versions"] = ordered_json::array();
  for (const auto& version : status.versions()) {
    document["versions"].push_back(VersionJson(version));
  }
  return document;
}

std::string StatusText(const proto::GetStatusReply& status) {
  std::string text;
  if (status.follower()) {
    text += "No coordinator leads now. This is from one that follows: state of " +
            SecondsText(status.state_age_ms()) + " ago; what nodes report is not known there.\n\n";
  }
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
