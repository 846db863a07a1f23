// Memory nodes: what they hold, and asking them to leave.
#include <memory>
#include <string>
#include <thread>

#include "engram/http/status_json.h"
#include "tools/command.h"
#include "tools/coordinator_calls.h"
#include "tools/status_text.h"

namespace engram {
namespace {

constexpr auto kPollInterval = std::chrono::milliseconds(200);

struct Options {
  CoordinatorOptions coordinator;
  std::string node_id;
  bool wait = false;
  double wait_timeout_s = 3600;
};

const proto::NodeStatus* FindNode(const proto::GetStatusReply& status, const std::string& id) {
  for (const auto& node : status.nodes()) {
    if (node.id() == id) return &node;
  }
  return nullptr;
}

// What stands in the way of every plan, for somebody who waits for one.
std::string Problems(const proto::GetStatusReply& status) {
  std::string text;
  for (const auto& version : status.versions()) {
    if (!version.plan_problem().empty()) text += "; " + version.plan_problem();
  }
  return text;
}

// Until the node holds nothing that a reader may still ask for.
Status WaitEmpty(const Options& options) {
  using Clock = std::chrono::steady_clock;
  const auto end =
      Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(options.wait_timeout_s * 1000));
  ProgressLine progress;
  while (true) {
    const auto status = CallGetStatus(options.coordinator);
    if (status.has_value()) {
      const proto::NodeStatus* const node = FindNode(*status, options.node_id);
      if (node == nullptr)
        return Status(StatusCode::kNotFound, "node " + options.node_id + " is gone");
      if (!node->draining()) {
        return Status(StatusCode::kCancelled,
                      "somebody cancelled the drain of node " + options.node_id);
      }
      const std::string text = DrainText(*node) + Problems(*status);
      const bool empty = node->assigned_slots() == 0 && node->releasing_bytes() == 0;
      progress.Show(text, empty);
      if (empty) return Status();
      if (Clock::now() >= end) {
        return Status(StatusCode::kDeadlineExceeded,
                      text + " after --wait-timeout-s; the drain goes on");
      }
    } else if (Clock::now() >= end) {
      return status.error();
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

Status RunNodes(const Options& options, bool json) {
  const auto status = CallGetStatus(options.coordinator);
  if (!status.has_value()) return status.error();
  return json ? PrintJson(StatusJson(*status)["nodes"]) : Print(NodesText(*status));
}

Status RunDrain(const Options& options, bool undo, bool json) {
  proto::DrainNodeRequest request;
  request.set_node_id(options.node_id);
  request.set_undo(undo);
  if (const auto reply = CallDrainNode(options.coordinator, request); !reply.has_value()) {
    return reply.error();
  }
  if (options.wait) ENGRAM_RETURN_IF_ERROR(WaitEmpty(options));
  if (json) {
    return PrintJson({{"node", options.node_id}, {"draining", !undo}, {"empty", options.wait}});
  }
  if (undo) return Print("node " + options.node_id + " takes slots again\n");
  return Print("node " + options.node_id +
               (options.wait ? " holds nothing any more: it may be stopped\n"
                             : " is drained (engramctl nodes shows how far)\n"));
}

Status RunRemove(const Options& options, bool json) {
  proto::RemoveNodeRequest request;
  request.set_node_id(options.node_id);
  if (const auto reply = CallRemoveNode(options.coordinator, request); !reply.has_value()) {
    return reply.error();
  }
  if (json) return PrintJson({{"node", options.node_id}, {"removed", true}});
  return Print("node " + options.node_id + " is forgotten\n");
}

}  // namespace

void AddNodeCommands(CLI::App& app, CommandLine& line) {
  const auto add = [&](const char* name, const char* help, bool names_node) {
    auto options = std::make_shared<Options>();
    CLI::App* const command = app.add_subcommand(name, help);
    AddCoordinatorOptions(*command, options->coordinator);
    if (names_node) {
      command->add_option("node", options->node_id, "The node's id (engramctl nodes)")->required();
    }
    return std::pair(command, options);
  };
  const auto [nodes, nodes_options] = add("nodes", "Show the memory nodes and what moves", false);
  nodes->callback([options = nodes_options, &line] {
    line.run = [options, &line] { return RunNodes(*options, line.json); };
  });
  const auto [drain, drain_options] =
      add("drain", "Move a node's slots away, so that it may leave. Again = no change", true);
  drain->footer(
      "Reads go on. engramctl undrain cancels it, engramctl plan --drain NODE shows it first.");
  drain->add_flag("--wait", drain_options->wait,
                  "Wait until the node holds nothing, with progress");
  drain->add_option("--wait-timeout-s", drain_options->wait_timeout_s, "Stop waiting after this")
      ->check(CLI::Range(0.001, 1e7))
      ->capture_default_str();
  drain->callback([options = drain_options, &line] {
    line.run = [options, &line] { return RunDrain(*options, false, line.json); };
  });
  const auto [undrain, undrain_options] =
      add("undrain", "Cancel a drain, finished or not: the node takes slots again", true);
  undrain->callback([options = undrain_options, &line] {
    line.run = [options, &line] { return RunDrain(*options, true, line.json); };
  });
  const auto [remove, remove_options] =
      add("remove-node", "Forget a node that is down and owns no slot", true);
  remove->callback([options = remove_options, &line] {
    line.run = [options, &line] { return RunRemove(*options, line.json); };
  });
}

}  // namespace engram
