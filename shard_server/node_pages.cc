#include "shard_server/node_pages.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <nlohmann/json.hpp>

#include "engram/metrics/family_writer.h"

namespace engram {
namespace {

void WriteReads(const RowServerStats& stats, FamilyWriter* out) {
  out->Gauge("engram_node_sessions", "Reader sessions open now.", stats.sessions_open);
  out->Counter("engram_node_reads_total", "Gather requests answered.", stats.reads);
  out->Counter("engram_node_rows_total", "Rows sent to readers by gather.", stats.rows);
  out->Counter("engram_node_sent_bytes_total", "Bytes of those answers.", stats.bytes);
  out->Histogram("engram_node_gather_seconds",
                 "From a gather request here to its answer handed to the network.",
                 stats.gather_times);
  const std::string refused = "engram_node_rows_refused_total";
  const std::string help = "Rows asked for and not sent, by reason.";
  out->Counter(refused, help, stats.rows_not_owned, {{"reason", "not_owned"}});
  out->Counter(refused, help, stats.rows_out_of_range, {{"reason", "out_of_range"}});
  const std::string reads = "engram_node_reads_refused_total";
  const std::string why = "Reads refused, by reason: busy = no room to wait, expired = too late.";
  out->Counter(reads, why, stats.refused_busy, {{"reason", "busy"}});
  out->Counter(reads, why, stats.expired, {{"reason", "expired"}});
  out->Gauge("engram_node_rows_waiting", "Rows of reads that wait for their turn.",
             stats.rows_waiting);
  out->Counter("engram_node_slow_readers_total",
               "Sessions ended because their reader took no answers.", stats.slow_readers);
  out->Counter("engram_node_messages_refused_total",
               "Messages refused: malformed, oversized, of another version or incarnation.",
               stats.refused_messages);
  out->Counter("engram_node_sessions_refused_total",
               "Sessions refused: another model, version or incarnation, or too many.",
               stats.refused_sessions);
}

void WriteMemory(const SlotStoreFigures& memory, FamilyWriter* out) {
  out->Gauge("engram_node_memory_limit_bytes", "What --memory allows.", memory.memory_bytes_max);
  out->Gauge("engram_node_memory_allocated_bytes", "Memory allocated for slots.",
             memory.region_bytes);
  const std::string name = "engram_node_memory_used_bytes";
  const std::string help =
      "Allocated memory by use: ready and loading slots, replacements of damaged ones, slots that "
      "moved away and that readers may still use, dropped versions and replaced slots likewise, "
      "and "
      "free.";
  const auto use = [&](const char* what, uint64_t bytes) {
    out->Gauge(name, help, bytes, {{"use", what}});
  };
  use("ready", memory.ready_bytes);
  use("loading", memory.held_bytes - memory.ready_bytes);
  use("replacing", memory.replacing_bytes);
  use("leaving", memory.leaving_bytes);
  use("waiting", memory.waiting_bytes);
  use("free", memory.free_bytes);
  out->Gauge("engram_node_memory_wanted_bytes",
             "Of assigned slots that wait for memory that others leave.", memory.unplaced_bytes);
  const std::string regions = "engram_node_memory_regions";
  const std::string regions_help = "Memory regions by page size; each is one key for every reader.";
  out->Gauge(regions, regions_help, memory.huge_regions, {{"pages", "huge"}});
  out->Gauge(regions, regions_help, memory.regions - memory.huge_regions, {{"pages", "plain"}});
}

void WriteVersions(const NodeSnapshot& snapshot, FamilyWriter* out) {
  const auto each = [&](const char* name, const char* help, const char* state, auto value) {
    for (const HeldVersion& held : snapshot.versions) {
      out->Gauge(name, help, value(held),
                 {{"version", std::to_string(held.version.value())}, {"state", state}});
    }
  };
  const char* slots = "engram_node_slots";
  const char* slots_help = "Slots of a version that this node should hold, and that are served.";
  each(slots, slots_help, "assigned", [](const HeldVersion& held) { return held.slots_assigned; });
  each(slots, slots_help, "ready", [](const HeldVersion& held) { return held.ready->size(); });
  const char* bytes = "engram_node_slot_bytes";
  const char* bytes_help = "Stored bytes of those slots: load progress is ready / assigned.";
  each(bytes, bytes_help, "assigned", [](const HeldVersion& held) { return held.bytes_total; });
  each(bytes, bytes_help, "ready", [](const HeldVersion& held) { return held.bytes_ready; });
  for (const HeldVersion& held : snapshot.versions) {
    out->Gauge("engram_node_shard_map_epoch", "The newest epoch that readers are told of.",
               held.newest_epoch.value(), {{"version", std::to_string(held.version.value())}});
  }
  for (const HeldVersion& held : snapshot.versions) {
    out->Gauge("engram_node_version_error", "1 where slots are missing because of an error.",
               held.error.ok() ? 0 : 1,
               {{"version", std::to_string(held.version.value())},
                {"code", std::string(StatusCodeName(held.error.code()))}});
  }
  out->Gauge("engram_node_loading", "1 while slots are being loaded.", snapshot.loading ? 1 : 0);
  out->Counter("engram_node_loads_failed_total", "Loads that ended with an error.",
               snapshot.loads_failed);
}

void WriteScrub(const NodeSnapshot& snapshot, FamilyWriter* out) {
  out->Counter("engram_node_corrupt_rows_found_total",
               "Stored rows that this node found damaged, by scrub or on a reader's report.",
               snapshot.corrupt_rows_found);
  out->Counter("engram_node_rows_repaired_total",
               "Damaged rows whose slot was replaced from a replica or the checkpoint.",
               snapshot.rows_repaired);
  for (const HeldVersion& held : snapshot.versions) {
    out->Gauge("engram_node_damaged_slots", "Slots with damaged rows that are not replaced yet.",
               held.slots_damaged, {{"version", std::to_string(held.version.value())}});
  }
  out->Counter("engram_node_damage_reports_unconfirmed_total",
               "Slots that readers reported as damaged and whose rows are whole here.",
               snapshot.reports_unconfirmed);
  out->Counter("engram_node_scrub_bytes_total", "Stored rows checked in place.",
               snapshot.bytes_scrubbed);
  out->Counter("engram_node_scrub_passes_total", "Times that every ready slot was checked.",
               snapshot.scrub_passes);
  out->Gauge("engram_node_scrub_last_pass_seconds", "What the last whole pass took; 0 = none yet.",
             std::chrono::duration<double>(snapshot.scrub_last_pass).count());
  out->Gauge("engram_node_scrub_limit_bytes_per_second", "What --scrub-rate allows; 0 = off.",
             snapshot.scrub_bytes_per_s_max);
}

void WriteCopies(const NodeSnapshot& snapshot, FamilyWriter* out) {
  out->Counter("engram_node_copied_bytes_total", "Rows that came from other memory nodes.",
               snapshot.bytes_copied);
  out->Gauge("engram_node_copy_bytes_per_second", "At which rows come from other memory nodes now.",
             snapshot.copy_bytes_per_s);
  out->Gauge("engram_node_copy_limit_bytes_per_second",
             "What the coordinator allows of that; 0 = no bound.", snapshot.copy_bytes_per_s_max);
  const std::string slots = "engram_node_slot_copies_total";
  const std::string help =
      "Slots copied from other memory nodes; failed ones are loaded from the checkpoint.";
  out->Counter(slots, help, snapshot.slots_copied, {{"result", "ok"}});
  out->Counter(slots, help, snapshot.slots_not_copied, {{"result", "failed"}});
}

void WriteConversation(const AgentFigures& agent, FamilyWriter* out) {
  out->Gauge("engram_node_coordinator_connected", "1 while the coordinator answers heartbeats.",
             agent.connected ? 1 : 0);
  out->Gauge("engram_node_coordinator_term", "The highest coordinator term seen.", agent.term);
  out->Counter("engram_node_heartbeats_total", "Heartbeats that the coordinator answered.",
               agent.heartbeats_answered);
  out->Counter("engram_node_coordinator_connections_lost_total",
               "Times that the coordinator stopped answering.", agent.connections_lost);
  out->Counter("engram_node_coordinator_replies_refused_total",
               "Replies refused: of a lower term, or a malformed assignment.",
               agent.replies_refused);
}

// "a=1&b=2" with exactly the keys wanted, each a whole number; none when it is anything else.
std::optional<std::map<std::string, uint64_t, std::less<>>> ParseNumbers(
    std::string_view query, std::initializer_list<std::string_view> wanted) {
  std::map<std::string, uint64_t, std::less<>> numbers;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(query.size(), pair.size() + 1));
    const size_t equals = pair.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const std::string_view text = pair.substr(equals + 1);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    if (!numbers.emplace(pair.substr(0, equals), value).second) return std::nullopt;
  }
  if (numbers.size() != wanted.size()) return std::nullopt;
  for (const std::string_view key : wanted) {
    if (!numbers.contains(key)) return std::nullopt;
  }
  return numbers;
}

Status FlipByte(MemoryNode* node, std::string_view query) {
  const auto numbers = ParseNumbers(query, {"version", "slot", "row", "byte"});
  if (!numbers.has_value()) {
    return {StatusCode::kInvalidArgument, "expected ?version=V&slot=S&row=R&byte=B"};
  }
  const auto narrow = [&](std::string_view key) {
    return static_cast<uint32_t>(std::min<uint64_t>(numbers->find(key)->second, UINT32_MAX));
  };
  return node->FlipByte(TableVersion(numbers->find("version")->second), SlotIndex(narrow("slot")),
                        narrow("row"), narrow("byte"));
}

Status PauseLoading(MemoryNode* node, std::string_view query) {
  const auto numbers = ParseNumbers(query, {"paused"});
  if (!numbers.has_value() || numbers->begin()->second > 1) {
    return {StatusCode::kInvalidArgument, "expected ?paused=0 or ?paused=1"};
  }
  node->SetLoadingPaused(numbers->begin()->second == 1);
  return {};
}

boost::asio::awaitable<Status> RunHook(Status (*hook)(MemoryNode*, std::string_view),
                                       MemoryNode* node, std::string query) {
  co_return hook(node, query);
}

boost::asio::awaitable<void> AnswerHook(MemoryNode* node, const HttpRequest& request,
                                        HttpResponder& responder) {
  const auto hook = request.path == "/test/flip_byte"       ? FlipByte
                    : request.path == "/test/pause_loading" ? PauseLoading
                                                            : nullptr;
  if (hook == nullptr || request.method != "POST") co_return;  // the server answers 404
  // The node's state belongs to its own thread: go there and come back. (The task has a name
  // because GCC 12 destroys some temporaries inside co_await twice.)
  auto task = RunHook(hook, node, request.query);
  const Status status =
      co_await boost::asio::co_spawn(node->executor(), std::move(task), boost::asio::use_awaitable);
  const int code = status.ok() ? 200 : status.code() == StatusCode::kNotFound ? 404 : 400;
  (void)co_await responder.Respond(code, "text/plain", status.ToString() + "\n");
}

}  // namespace

Readiness NodeReadiness(const NodeSources& sources) {
  const auto snapshot = sources.node->snapshot();
  const AgentFigures& agent = sources.agent->figures();
  std::string reason;
  if (agent.heartbeats_answered == 0) {
    reason = agent.registered ? "no heartbeat was answered yet"
                              : "not registered with the coordinator yet";
    if (!agent.last_error.ok()) reason += ": " + agent.last_error.ToString();
  }
  // An assignment that came but is not applied yet, or was refused as malformed.
  for (const auto& [version, revision] : sources.agent->known_revisions()) {
    const bool applied =
        revision == 0 ||
        std::any_of(snapshot->versions.begin(), snapshot->versions.end(),
                    [version = version, revision = revision](const auto& held) {
                      return held.version.value() == version && held.revision == revision;
                    });
    if (!applied && reason.empty()) {
      reason = "version " + std::to_string(version) + ": assignment " + std::to_string(revision) +
               " is not applied";
    }
  }
  nlohmann::json versions = nlohmann::json::array();
  for (const HeldVersion& held : snapshot->versions) {
    if (!held.complete() && reason.empty()) {
      reason = "version " + std::to_string(held.version.value()) + ": " +
               std::to_string(held.ready->size()) + " of " + std::to_string(held.slots_assigned) +
               " slots are ready";
      if (held.slots_unplaced > 0) {
        reason += ", " + std::to_string(held.slots_unplaced) +
                  " wait for memory of slots that moved away and that readers may still use";
      }
      if (!held.error.ok()) reason += ": " + held.error.ToString();
    }
    versions.push_back({{"version", held.version.value()},
                        {"revision", held.revision},
                        {"slots_assigned", held.slots_assigned},
                        {"slots_ready", held.ready->size()},
                        {"slots_waiting_for_memory", held.slots_unplaced},
                        {"slots_damaged", held.slots_damaged},
                        {"bytes_assigned", held.bytes_total},
                        {"bytes_ready", held.bytes_ready},
                        {"error", held.error.ok() ? "" : held.error.ToString()}});
  }
  const nlohmann::json detail = {{"ready", reason.empty()},
                                 {"reason", reason},
                                 {"id", sources.id},
                                 {"incarnation", sources.incarnation.value()},
                                 {"registered", agent.registered},
                                 {"coordinator_connected", agent.connected},
                                 {"loading", snapshot->loading},
                                 {"copy_bytes_per_s", snapshot->copy_bytes_per_s},
                                 {"bytes_copied", snapshot->bytes_copied},
                                 {"corrupt_rows_found", snapshot->corrupt_rows_found},
                                 {"rows_repaired", snapshot->rows_repaired},
                                 {"bytes_scrubbed", snapshot->bytes_scrubbed},
                                 {"scrub_passes", snapshot->scrub_passes},
                                 {"versions", std::move(versions)}};
  // Messages may quote a file's bytes: whatever is not UTF-8 is replaced, not thrown at.
  return {reason.empty(), detail.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)};
}

std::vector<prometheus::MetricFamily> NodeMetrics::Collect() const {
  std::vector<prometheus::MetricFamily> families;
  FamilyWriter out(&families);
  const auto snapshot = sources_.node->snapshot();
  out.Gauge("engram_node_info", "Who this is; the value is 1.", 1,
            {{"id", sources_.id},
             {"zone", sources_.zone},
             {"incarnation", std::to_string(sources_.incarnation.value())}});
  out.Gauge("engram_node_ready", "1 when every assigned slot is loaded and checked.",
            NodeReadiness(sources_).ready ? 1 : 0);
  WriteReads(sources_.server->stats(), &out);
  WriteMemory(snapshot->memory, &out);
  WriteVersions(*snapshot, &out);
  WriteCopies(*snapshot, &out);
  WriteScrub(*snapshot, &out);
  WriteConversation(sources_.agent->figures(), &out);
  return families;
}

HttpServer::Handler TestHooks(MemoryNode* node) {
  return [node](const HttpRequest& request, HttpResponder& responder) {
    return AnswerHook(node, request, responder);
  };
}

HttpServer::Handler NodePages(const NodeSources& sources, bool enable_test_hooks) {
  return ServicePages(
      std::make_shared<NodeMetrics>(sources), [sources] { return NodeReadiness(sources); },
      enable_test_hooks ? TestHooks(sources.node) : nullptr, sources.certificates);
}

}  // namespace engram
