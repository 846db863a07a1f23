// Fewer memory nodes without a failed read: drains those that will go, then forgets them.
#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "tools/command.h"
#include "tools/coordinator_calls.h"
#include "tools/scale_in.h"

namespace engram {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kPollInterval = std::chrono::milliseconds(200);
// A plan that cannot be made may be for a moment, while a node restarts.
constexpr auto kProblemGrace = std::chrono::seconds(30);
// One upgrade may replace memory nodes and every coordinator; and a network policy may let a new
// pod in a little later.
constexpr auto kCoordinatorGrace = std::chrono::seconds(60);

struct Options {
  CoordinatorOptions coordinator;
  std::vector<std::string> keep;
  std::vector<std::string> of;
  std::vector<std::string> keep_drained;
  bool wait = false;
  bool forget = false;
  double wait_timeout_s = 3600;
};

Clock::time_point EndOf(const Options& options) {
  return Clock::now() +
         std::chrono::milliseconds(static_cast<int64_t>(options.wait_timeout_s * 1000));
}

std::string Names(const std::vector<std::string>& ids) {
  std::string text;
  for (const std::string& id : ids) text += (text.empty() ? "" : ", ") + id;
  return text;
}

// No coordinator answers, and one may soon. A host that is gone does not refuse: it is silent.
bool IsAway(const Status& status) {
  return status.code() == StatusCode::kUnavailable ||
         status.code() == StatusCode::kDeadlineExceeded;
}

// With --wait or --forget coordinators that are away just now are waited for. `call` may be made
// twice: its answer may have been lost.
template <typename Call>
auto OnceThere(const Options& options, Call call) {
  const auto end = std::min(EndOf(options), Clock::now() + kCoordinatorGrace);
  while (true) {
    auto reply = call();
    const bool later =
        (options.wait || options.forget) && !reply.has_value() && IsAway(reply.error());
    if (!later || Clock::now() >= end) return reply;
    std::this_thread::sleep_for(kPollInterval);
  }
}

Status Drain(const Options& options, const std::string& id, bool undo) {
  proto::DrainNodeRequest request;
  request.set_node_id(id);
  request.set_undo(undo);
  const auto reply =
      OnceThere(options, [&] { return CallDrainNode(options.coordinator, request); });
  return reply.has_value() ? Status() : reply.error().WithContext("node " + id);
}

// What is still to happen before `ids` may go.
struct Remaining {
  uint64_t slots = 0;
  uint64_t bytes = 0;
  uint64_t releasing_bytes = 0;
  std::string problem;
  std::string down;  // nodes that stay, and may be what slots wait for
};

Remaining RemainingOf(const proto::GetStatusReply& status, const std::vector<std::string>& ids) {
  Remaining remaining;
  for (const auto& node : status.nodes()) {
    if (std::find(ids.begin(), ids.end(), node.id()) == ids.end()) {
      if (!node.up()) remaining.down += (remaining.down.empty() ? "" : ", ") + node.id();
      continue;
    }
    remaining.slots += node.assigned_slots();
    remaining.bytes += node.assigned_bytes();
    // What a node that is down kept for readers is gone.
    if (node.up()) remaining.releasing_bytes += node.releasing_bytes();
  }
  for (const auto& version : status.versions()) {
    if (!version.plan_problem().empty() && remaining.problem.empty()) {
      remaining.problem =
          "version " + std::to_string(version.version()) + ": " + version.plan_problem();
    }
  }
  return remaining;
}

// Until nobody may ask the nodes for a row any more.
Status WaitEmpty(const Options& options, const std::vector<std::string>& ids) {
  const auto end = EndOf(options);
  std::optional<Clock::time_point> problem_since;
  ProgressLine progress;
  while (true) {
    const auto status = CallGetStatus(options.coordinator);
    if (!status.has_value()) {
      // A coordinator that restarts is back soon.
      if (Clock::now() >= end) return status.error();
      std::this_thread::sleep_for(kPollInterval);
      continue;
    }
    const Remaining remaining = RemainingOf(*status, ids);
    const std::string text = Names(ids) + ": " + std::to_string(remaining.slots) + " slots, " +
                             BytesText(remaining.bytes) + " still to move away, " +
                             BytesText(remaining.releasing_bytes) + " kept for readers" +
                             (remaining.down.empty() ? "" : "; down: " + remaining.down) +
                             (remaining.problem.empty() ? "" : "; " + remaining.problem);
    const bool empty = remaining.slots == 0 && remaining.releasing_bytes == 0;
    progress.Show(text, empty);
    if (empty) return {};
    const auto now = Clock::now();
    if (remaining.problem.empty()) problem_since.reset();
    if (!remaining.problem.empty() && !problem_since.has_value()) problem_since = now;
    if (problem_since.has_value() && now - *problem_since >= kProblemGrace) {
      return {StatusCode::kFailedPrecondition,
              text + ". The nodes stay drained: run this again when it is settled"};
    }
    if (now >= end) {
      return {StatusCode::kDeadlineExceeded,
              text + " after --wait-timeout-s; the drains go on: run this again"};
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

Result<proto::GetPlanReply> PlanWithout(const Options& options, const ScaleIn& scale_in) {
  proto::GetPlanRequest request;
  for (const std::string& id : scale_in.leaving) request.add_drain(id);
  for (const std::string& id : scale_in.undrained) request.add_undrain(id);
  return OnceThere(options, [&] { return CallGetPlan(options.coordinator, request); });
}

Status RunDrains(const Options& options, const proto::GetStatusReply& status,
                 const ScaleIn& scale_in, bool json) {
  // All or nothing: everything is asked before anything changes.
  const auto plan = PlanWithout(options, scale_in);
  if (!plan.has_value()) return plan.error();
  if (const Status fits = CheckScaleIn(status, scale_in, *plan); !fits.ok()) {
    return fits.WithContext("nothing was drained");
  }
  for (const std::string& id : scale_in.undrained) {
    ENGRAM_RETURN_IF_ERROR(Drain(options, id, true));
  }
  for (const std::string& id : scale_in.leaving) ENGRAM_RETURN_IF_ERROR(Drain(options, id, false));
  if (options.wait && !scale_in.leaving.empty()) {
    ENGRAM_RETURN_IF_ERROR(WaitEmpty(options, scale_in.leaving));
  }
  if (json) {
    return PrintJson({{"drained", scale_in.leaving},
                      {"undrained", scale_in.undrained},
                      {"empty", options.wait || scale_in.leaving.empty()}});
  }
  std::string text;
  if (!scale_in.undrained.empty()) text += Names(scale_in.undrained) + " take slots again\n";
  if (scale_in.leaving.empty()) return Print(text + "no node is to go\n");
  return Print(text + Names(scale_in.leaving) +
               (options.wait ? " hold nothing any more: they may be stopped\n"
                             : " are drained (engramctl nodes shows how far)\n"));
}

// Removes a node once it is down, as it is soon after it was stopped.
Status Forget(const Options& options, const std::string& id, Clock::time_point end) {
  while (true) {
    proto::RemoveNodeRequest request;
    request.set_node_id(id);
    const auto reply = CallRemoveNode(options.coordinator, request);
    if (reply.has_value() || reply.error().code() == StatusCode::kNotFound) return {};
    const bool later =
        reply.error().code() == StatusCode::kFailedPrecondition || IsAway(reply.error());
    if (!later || Clock::now() >= end) return reply.error().WithContext("node " + id);
    std::this_thread::sleep_for(kPollInterval);
  }
}

Status RunForget(const Options& options, const ScaleIn& scale_in, bool json) {
  const auto end = EndOf(options);
  for (const std::string& id : scale_in.leaving) ENGRAM_RETURN_IF_ERROR(Forget(options, id, end));
  if (json) return PrintJson({{"removed", scale_in.leaving}});
  if (scale_in.leaving.empty()) return Print("no node is to be forgotten\n");
  return Print(Names(scale_in.leaving) + " are forgotten\n");
}

Status Run(const Options& options, bool json) {
  std::vector<KeptNodes> kept;
  for (const std::string& text : options.keep) {
    const auto parsed = ParseKeptNodes(text);
    if (!parsed.has_value()) return parsed.error();
    kept.push_back(*parsed);
  }
  const auto status = OnceThere(options, [&] { return CallGetStatus(options.coordinator); });
  if (!status.has_value()) {
    if (!IsAway(status.error())) return status.error();
    // The chart's Job says this too, and then stands in the way of the upgrade that mends it.
    return {status.error().code(),
            status.error().message() +
                ". Nothing was drained or forgotten: wait until a coordinator answers; or, where "
                "it needs this very upgrade of a Helm release to run, and no memory node goes, set "
                "memoryNodes.scaleIn.enabled=false for this upgrade"};
  }
  const ScaleIn scale_in = PlanScaleIn(*status, kept, options.of, options.keep_drained);
  return options.forget ? RunForget(options, scale_in, json)
                        : RunDrains(options, *status, scale_in, json);
}

}  // namespace

void AddScaleInCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* const command = app.add_subcommand(
      "scale-in", "Drain the memory nodes that will go when there are fewer; again = no change");
  command->footer(
      "Nodes are numbered, as the pods of a StatefulSet: those from COUNT on will go, those before "
      "it\n"
      "take slots (again). Nothing is drained unless all that they hold fits the others.\n"
      "  engramctl scale-in --keep engram-memory-=3 --wait     before they are stopped\n"
      "  engramctl scale-in --keep engram-memory-=3 --forget   after it");
  AddCoordinatorOptions(*command, options->coordinator);
  command
      ->add_option("--keep", options->keep,
                   "How many nodes stay whose names are PREFIX and a number; once for each prefix")
      ->type_name("PREFIX=COUNT")
      ->required();
  command
      ->add_option("--of", options->of,
                   "All of these nodes are meant: one whose name begins so and that no --keep has "
                   "will go too")
      ->type_name("PREFIX");
  command->add_option("--keep-drained", options->keep_drained, "Nodes that stay, and stay drained");
  CLI::Option* const wait =
      command->add_flag("--wait", options->wait, "Wait until they hold nothing, with progress");
  command
      ->add_flag("--forget", options->forget,
                 "Remove those nodes instead, when they are down: so that one that comes back is a "
                 "new one")
      ->excludes(wait);
  command->add_option("--wait-timeout-s", options->wait_timeout_s, "Stop waiting after this")
      ->check(CLI::Range(0.001, 1e7))
      ->capture_default_str();
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
