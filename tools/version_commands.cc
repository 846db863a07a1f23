// Table versions: which one clients read, and letting one go.
#include <memory>

#include "tools/command.h"
#include "tools/coordinator_calls.h"

namespace engram {
namespace {

struct Options {
  CoordinatorOptions coordinator;
  uint64_t version = 0;
  bool drop_previous = false;
};

Status Drop(const Options& options, uint64_t version) {
  proto::DropVersionRequest request;
  request.set_version(version);
  const auto reply = CallDropVersion(options.coordinator, request);
  return reply.has_value() ? Status() : reply.error();
}

Status RunSwitch(const Options& options, bool json) {
  proto::SwitchVersionRequest request;
  request.set_version(options.version);
  const auto reply = CallSwitchVersion(options.coordinator, request);
  if (!reply.has_value()) return reply.error();
  const bool drop = options.drop_previous && reply->previous_version() != 0;
  if (drop) ENGRAM_RETURN_IF_ERROR(Drop(options, reply->previous_version()));
  if (json) {
    return PrintJson({{"current_version", reply->current_version()},
                      {"previous_version", drop ? 0 : reply->previous_version()}});
  }
  std::string text = "version " + std::to_string(reply->current_version()) + " is current";
  if (drop) {
    text += "; version " + std::to_string(reply->previous_version()) + " is dropped";
  } else if (reply->previous_version() != 0) {
    text += "; engramctl rollback goes back to " + std::to_string(reply->previous_version());
  }
  return Print(text + "\n");
}

Status RunDrop(const Options& options, bool json) {
  ENGRAM_RETURN_IF_ERROR(Drop(options, options.version));
  if (json) return PrintJson({{"version", options.version}, {"dropped", true}});
  return Print("version " + std::to_string(options.version) +
               " is dropped: nodes let it go when its last readers have\n");
}

}  // namespace

void AddVersionCommands(CLI::App& app, CommandLine& line) {
  auto switched = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "switch", "Let clients that name no version read this one, from their next batch on");
  AddCoordinatorOptions(*command, switched->coordinator);
  command->add_option("version", switched->version, "A version that is ready (engramctl status)")
      ->check(CLI::PositiveNumber)
      ->required();
  command->add_flag("--drop-previous", switched->drop_previous,
                    "Let the other one go at once: no rollback");
  command->callback([switched, &line] {
    line.run = [switched, &line] { return RunSwitch(*switched, line.json); };
  });

  auto back = std::make_shared<Options>();
  command = app.add_subcommand("rollback", "Switch to the version that was current before");
  AddCoordinatorOptions(*command, back->coordinator);
  command->callback(
      [back, &line] { line.run = [back, &line] { return RunSwitch(*back, line.json); }; });

  auto dropped = std::make_shared<Options>();
  command = app.add_subcommand("drop-version", "Let a version that is not current go");
  AddCoordinatorOptions(*command, dropped->coordinator);
  command->add_option("version", dropped->version, "Its number (engramctl status)")
      ->check(CLI::PositiveNumber)
      ->required();
  command->callback(
      [dropped, &line] { line.run = [dropped, &line] { return RunDrop(*dropped, line.json); }; });
}

}  // namespace engram
