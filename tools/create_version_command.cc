#include <filesystem>
#include <iostream>
#include <memory>
#include <optional>
#include <thread>

#include <unistd.h>

#include "tools/command.h"
#include "tools/coordinator_calls.h"
#include "tools/status_text.h"

namespace engram {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(100);
// The coordinator reads config, tokenizer and tensor headers before it answers.
constexpr double kCreateTimeoutS = 120;

struct Options {
  CoordinatorOptions coordinator;
  std::filesystem::path model_dir;
  uint32_t replicas = 1;
  uint32_t expect_nodes = 0;
  bool not_current = false;
  bool take_replica = false;
  bool yes = false;
  bool wait = false;
  double wait_timeout_s = 3600;
  bool first = false;
  double register_timeout_s = 10;
};

const proto::VersionStatus* FindVersion(const proto::GetStatusReply& status, uint64_t version) {
  for (const auto& candidate : status.versions()) {
    if (candidate.version() == version) return &candidate;
  }
  return nullptr;
}

// "node m1: ..." of every node that says why it does not load.
std::string NodeErrors(const proto::GetStatusReply& status) {
  std::string text;
  for (const auto& node : status.nodes()) {
    if (!node.error().empty()) text += "; node " + node.id() + ": " + node.error();
  }
  return text;
}

// A node that cannot load tries again, so its error ends the wait only when nothing gets ready.
Result<proto::VersionStatus> WaitReady(const Options& options, uint64_t version) {
  using Clock = std::chrono::steady_clock;
  const auto end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.wait_timeout_s * 1000));
  constexpr auto kErrorGrace = std::chrono::seconds(10);
  std::optional<Clock::time_point> stuck_since;
  uint64_t loaded_before = 0;
  ProgressLine progress;
  while (true) {
    auto status = CallGetStatus(options.coordinator);
    if (!status.has_value()) {
      // A coordinator that restarts is back soon; the nodes load on without it.
      if (Clock::now() >= end) return Error(status.error());
      std::this_thread::sleep_for(kPollInterval);
      continue;
    }
    const proto::VersionStatus* found = FindVersion(*status, version);
    if (found == nullptr) {
      return Error(StatusCode::kNotFound, "version " + std::to_string(version) + " is gone");
    }
    const std::string errors = NodeErrors(*status);
    if (found->ready_slots() == found->slot_count()) {
      progress.Show(LoadText(*found), true);
      return *found;
    }
    progress.Show(LoadText(*found) + errors);
    const auto now = Clock::now();
    if (errors.empty() || found->bytes_loaded() != loaded_before) stuck_since.reset();
    if (!errors.empty() && !stuck_since.has_value()) stuck_since = now;
    loaded_before = found->bytes_loaded();
    if (stuck_since.has_value() && now - *stuck_since >= kErrorGrace) {
      return Error(StatusCode::kUnavailable, LoadText(*found) + errors);
    }
    if (now >= end) {
      return Error(StatusCode::kDeadlineExceeded,
                   LoadText(*found) + " after --wait-timeout-s; loading goes on" + errors);
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

// What --take-replica would do, in words; empty when there is memory for both versions.
std::string TakeReplicaText(const proto::CreateVersionReply& would, uint32_t replicas) {
  if (would.taken_from() == 0) return "";
  const std::string taken_from = "version " + std::to_string(would.taken_from());
  const auto of_each = [](uint32_t count) {
    return std::to_string(count) + (count == 1 ? " replica" : " replicas") + " of each slot";
  };
  std::string text = "There is no memory for both versions. " + taken_from + " would keep " +
                     of_each(would.taken_from_keeps()) + " and give up " +
                     BytesText(would.taken_bytes()) + "; the new version would have " +
                     of_each(would.replicas_at_first()) + " (" +
                     BytesText(would.table_bytes() * would.replicas_at_first()) + ")";
  if (would.replicas_at_first() < replicas) {
    text += " instead of " + std::to_string(replicas);
  }
  return text +
         ". Reads go on. Replicas come back once a version is dropped or nodes join; until then a "
         "node that is lost costs the rows that nobody else holds, until they are loaded again.";
}

Status Confirm(const CoordinatorOptions& coordinator, proto::CreateVersionRequest request,
               bool yes) {
  request.set_dry_run(true);
  const auto would = CallCreateVersion(coordinator, request);
  if (!would.has_value()) return would.error();
  const std::string text = TakeReplicaText(*would, request.replica_count());
  if (text.empty()) return {};
  std::cerr << text << "\n";
  if (yes) return {};
  if (isatty(STDIN_FILENO) == 0) {
    return {StatusCode::kFailedPrecondition, "nothing was changed: confirm with --yes"};
  }
  std::cerr << "Go on? [y/N] " << std::flush;
  std::string answer;
  std::getline(std::cin, answer);
  if (answer == "y" || answer == "Y" || answer == "yes") return {};
  return {StatusCode::kCancelled, "nothing was changed"};
}

// Nodes that have just started may not be registered yet, nor with --first a coordinator be there.
// Version 0: --first, and there is one already.
Result<proto::CreateVersionReply> CreateWhenRegistered(const Options& options,
                                                       const CoordinatorOptions& coordinator,
                                                       const proto::CreateVersionRequest& request) {
  using Clock = std::chrono::steady_clock;
  const auto registered_by =
      Clock::now() +
      std::chrono::milliseconds(static_cast<int64_t>(options.register_timeout_s * 1000));
  const bool patient = (options.wait && options.expect_nodes > 0) || options.first;
  while (true) {
    Result<proto::CreateVersionReply> created = proto::CreateVersionReply();
    if (options.first) {
      // Asked again each time: an answer may have been lost.
      const auto status = CallGetStatus(coordinator);
      if (status.has_value() && !status->versions().empty()) return created;
      created = status.has_value() ? CallCreateVersion(coordinator, request)
                                   : Result<proto::CreateVersionReply>(Error(status.error()));
    } else {
      created = CallCreateVersion(coordinator, request);
    }
    if (created.has_value()) return created;
    const StatusCode code = created.error().code();
    const bool later = code == StatusCode::kFailedPrecondition ||
                       (options.first && (code == StatusCode::kUnavailable ||
                                          code == StatusCode::kDeadlineExceeded));
    if (!patient || !later || Clock::now() >= registered_by) return created;
    std::this_thread::sleep_for(kPollInterval);
  }
}

Status Run(const Options& options, bool json) {
  std::error_code error;
  const auto model_dir = std::filesystem::absolute(options.model_dir, error).lexically_normal();
  proto::CreateVersionRequest request;
  request.set_checkpoint_path(model_dir.string());
  request.set_replica_count(options.replicas);
  request.set_make_current(!options.not_current);
  request.set_expect_nodes(options.expect_nodes);
  CoordinatorOptions coordinator = options.coordinator;
  coordinator.timeout_s = std::max(coordinator.timeout_s, kCreateTimeoutS);
  request.set_take_replica(options.take_replica);
  if (options.take_replica) ENGRAM_RETURN_IF_ERROR(Confirm(coordinator, request, options.yes));
  auto created = CreateWhenRegistered(options, coordinator, request);
  if (!created.has_value()) return created.error();
  if (created->version() == 0) {
    if (json) return PrintJson({{"version", nullptr}});
    return Print("there is a version already: nothing was made (--first)\n");
  }
  if (!options.wait) {
    if (json) return PrintJson({{"version", created->version()}, {"ready", false}});
    return Print("version " + std::to_string(created->version()) +
                 " created; the memory nodes load it (engramctl status shows how far)\n");
  }
  const auto ready = WaitReady(options, created->version());
  if (!ready.has_value()) return ready.error();
  if (json) {
    return PrintJson({{"version", ready->version()},
                      {"ready", true},
                      {"slot_count", ready->slot_count()},
                      {"total_bytes", ready->total_bytes()}});
  }
  return Print("version " + std::to_string(ready->version()) +
               " ready: " + std::to_string(ready->slot_count()) + " slots, " +
               BytesText(ready->total_bytes()) + "\n");
}

}  // namespace

void AddCreateVersionCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "create-version", "Make a table version of a checkpoint: place its slots, load them");
  command->alias("add-version");
  command->footer(
      "The folder must be readable under the same path by the coordinator and by every memory "
      "node.\n"
      "  engramctl create-version --coordinator 10.0.0.1:7000 --model /models/v41 --wait");
  AddCoordinatorOptions(*command, options->coordinator);
  command->add_option("--model", options->model_dir, "The checkpoint's folder")
      ->type_name("DIR")
      ->required();
  command->add_option("--replicas", options->replicas, "Memory nodes that hold each slot")
      ->check(CLI::Range(1, 3))
      ->capture_default_str();
  command
      ->add_option("--expect-nodes", options->expect_nodes,
                   "Fail if fewer memory nodes are registered (0 = any number); with --wait or "
                   "--first, if so after --register-timeout-s")
      ->capture_default_str();
  command
      ->add_option("--register-timeout-s", options->register_timeout_s,
                   "How long memory nodes may take to register")
      ->check(CLI::Range(0.0, 1e7))
      ->capture_default_str();
  command->add_flag("--first", options->first,
                    "Only if there is no version yet; waits for the coordinator too. For set-up "
                    "that runs again");
  command->add_flag("--not-current", options->not_current,
                    "Do not serve it to clients that name no version");
  command->add_flag("--take-replica", options->take_replica,
                    "Where there is no memory for both versions: take the place of one replica of "
                    "each slot of the current one. Shown, and asked for, before anything changes");
  command->add_flag("--yes", options->yes, "Do not ask");
  command->add_flag("--wait", options->wait, "Wait until every slot is ready, with progress");
  command->add_option("--wait-timeout-s", options->wait_timeout_s, "Stop waiting after this")
      ->check(CLI::Range(0.001, 1e7))
      ->capture_default_str();
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
