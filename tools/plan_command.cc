// What would move, and why, before anything does.
#include <charconv>
#include <memory>
#include <string>
#include <vector>

#include "engram/base/text_table.h"
#include "tools/command.h"
#include "tools/coordinator_calls.h"

namespace engram {
namespace {

struct Options {
  CoordinatorOptions coordinator;
  std::vector<std::string> drain;
  std::vector<std::string> undrain;
  std::vector<std::string> lose;
  std::vector<std::string> add;
};

// "id:zone:bytes"; an id and a zone have no colon here.
Status ParseAdded(const std::string& text, proto::PlannedNode* node) {
  const size_t first = text.find(':');
  const size_t second = first == std::string::npos ? first : text.find(':', first + 1);
  uint64_t bytes = 0;
  if (second != std::string::npos) {
    const char* const begin = text.data() + second + 1;
    const char* const end = text.data() + text.size();
    const auto [last, error] = std::from_chars(begin, end, bytes);
    if (error != std::errc() || last != end) bytes = 0;
  }
  if (first == 0 || bytes == 0) {
    return Status(StatusCode::kInvalidArgument,
                  "--add " + text + ": give ID:ZONE:BYTES, such as m3:b:103079215104");
  }
  node->set_id(text.substr(0, first));
  node->set_zone(text.substr(first + 1, second - first - 1));
  node->set_capacity_bytes(bytes);
  return Status();
}

nlohmann::ordered_json PlanJson(const proto::GetPlanReply& plan) {
  auto versions = nlohmann::ordered_json::array();
  for (const auto& version : plan.versions()) {
    auto nodes = nlohmann::ordered_json::array();
    for (const auto& node : version.nodes()) {
      nodes.push_back({{"id", node.id()},
                       {"bytes_before", node.bytes_before()},
                       {"bytes_after", node.bytes_after()},
                       {"slots_gained", node.slots_gained()},
                       {"slots_lost", node.slots_lost()}});
    }
    versions.push_back({{"version", version.version()},
                        {"moves", version.moves()},
                        {"repairs", version.repairs()},
                        {"move_bytes", version.move_bytes()},
                        {"minimum_bytes", version.minimum_bytes()},
                        {"problem", version.problem()},
                        {"nodes", std::move(nodes)}});
  }
  return {{"versions", std::move(versions)}};
}

std::string PlanText(const proto::GetPlanReply& plan) {
  if (plan.versions().empty()) return "No table version: nothing to place.\n";
  std::string text;
  for (const auto& version : plan.versions()) {
    text += "Version " + std::to_string(version.version()) + ": ";
    if (!version.problem().empty()) {
      text += "stays where it is: " + version.problem() + "\n";
      continue;
    }
    if (version.moves() == 0) {
      text += "nothing to move\n";
      continue;
    }
    text += std::to_string(version.moves()) + " replicas to move (" +
            std::to_string(version.repairs()) + " repairs, the rest for balance), " +
            BytesText(version.move_bytes()) + "; any plan moves at least " +
            BytesText(version.minimum_bytes()) + "\n";
    std::vector<TableRow> rows = {{"NODE", "NOW", "THEN", "SLOTS GAINED", "SLOTS LOST"}};
    for (const auto& node : version.nodes()) {
      rows.push_back({node.id(), BytesText(node.bytes_before()), BytesText(node.bytes_after()),
                      std::to_string(node.slots_gained()), std::to_string(node.slots_lost())});
    }
    text += TextTable(rows);
  }
  return text;
}

Status Run(const Options& options, bool json) {
  proto::GetPlanRequest request;
  for (const std::string& id : options.drain) request.add_drain(id);
  for (const std::string& id : options.undrain) request.add_undrain(id);
  for (const std::string& id : options.lose) request.add_lose(id);
  for (const std::string& text : options.add) {
    ENGRAM_RETURN_IF_ERROR(ParseAdded(text, request.add_add()));
  }
  const auto plan = CallGetPlan(options.coordinator, request);
  if (!plan.has_value()) return plan.error();
  return json ? PrintJson(PlanJson(*plan)) : Print(PlanText(*plan));
}

}  // namespace

void AddPlanCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("plan", "Show what is to move, or what would if nodes came or went");
  command->footer(
      "Nothing moves because of this command.\n"
      "  engramctl plan --coordinator ADDR                      what is to move now\n"
      "  engramctl plan --coordinator ADDR --drain m1           if m1 were drained\n"
      "  engramctl plan --coordinator ADDR --add m3:b:103079215104");
  AddCoordinatorOptions(*command, options->coordinator);
  command->add_option("--drain", options->drain, "As if these nodes were drained");
  command->add_option("--undrain", options->undrain, "As if these were drained no longer");
  command->add_option("--lose", options->lose, "As if these were gone");
  command->add_option("--add", options->add, "As if these had joined: ID:ZONE:BYTES");
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line.json); }; });
}

}  // namespace engram
