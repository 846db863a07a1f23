#include "engram/http/status_json.h"

#include <vector>

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
          {"rows_repaired", node.rows_repaired()},
          {"draining", node.draining()},
          {"lost", node.lost()},
          {"incoming_slots", node.incoming_slots()},
          {"incoming_bytes", node.incoming_bytes()},
          {"outgoing_slots", node.outgoing_slots()},
          {"releasing_bytes", node.releasing_bytes()},
          {"copy_bytes_per_s", node.copy_bytes_per_s()},
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
          {"previous", version.previous()},
          {"replicas_wanted", version.replicas_wanted()},
          {"moves_pending", version.moves_pending()},
          {"move_bytes_pending", version.move_bytes_pending()},
          {"move_bytes_done", version.move_bytes_done()},
          {"replicas_missing", version.replicas_missing()},
          {"plan_problem", version.plan_problem()},
          {"spec", SpecJson(version.spec())}};
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

}  // namespace engram
