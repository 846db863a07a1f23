#include <memory>

#include "engram/http/status_json.h"
#include "tools/command.h"
#include "tools/coordinator_calls.h"
#include "tools/status_text.h"

namespace engram {

void AddStatusCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<CoordinatorOptions>();
  CLI::App* command = app.add_subcommand(
      "status", "Show table versions and memory nodes, as the coordinator sees them");
  command->footer(
      "With --json the keys are: term, nodes [id, up, assigned_slots, ready_slots, ...],\n"
      "versions [version, current, slot_count, ready_slots, bytes_loaded, total_bytes, ...].");
  AddCoordinatorOptions(*command, *options);
  command->callback([options, &line] {
    line.run = [options, &line]() -> Status {
      const auto status = CallGetStatus(*options);
      if (!status.has_value()) return status.error();
      return line.json ? PrintJson(StatusJson(*status)) : Print(StatusText(*status));
    };
  });
}

}  // namespace engram
