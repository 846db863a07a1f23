// What every engramctl subcommand shares: its place in the command line, output, exit codes.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "engram/base/status.h"
#include "engram/security/security_flags.h"

namespace engram {

enum ExitCode : int { kExitOk = 0, kExitFailed = 1, kExitUsage = 2 };

// The parsed command line. `run` is set by the chosen subcommand.
struct CommandLine {
  bool json = false;       // --json: stdout is one JSON document for programs
  bool json_done = false;  // it was printed, although the command failed: it says why
  std::function<Status()> run;
};

// One function per subcommand: adds it, with its options, to `app`. `line` outlives `app`.
void AddMakeModelCommand(CLI::App& app, CommandLine& line);
void AddHashCommand(CLI::App& app, CommandLine& line);
void AddTokenizeCommand(CLI::App& app, CommandLine& line);
void AddStatusCommand(CLI::App& app, CommandLine& line);
void AddCreateVersionCommand(CLI::App& app, CommandLine& line);
void AddNodeCommands(CLI::App& app, CommandLine& line);  // nodes drain undrain remove-node
void AddScaleInCommand(CLI::App& app, CommandLine& line);
void AddRollCommand(CLI::App& app, CommandLine& line);
void AddVersionCommands(CLI::App& app, CommandLine& line);  // switch rollback drop-version
void AddPlanCommand(CLI::App& app, CommandLine& line);
void AddSlotsCommand(CLI::App& app, CommandLine& line);
void AddEventsCommand(CLI::App& app, CommandLine& line);
void AddAuditCommand(CLI::App& app, CommandLine& line);
void AddProbeCommand(CLI::App& app, CommandLine& line);
void AddCertsCommand(CLI::App& app, CommandLine& line);  // certs init issue rotate show
void AddLookupCommand(CLI::App& app, CommandLine& line);
void AddVerifyCommand(CLI::App& app, CommandLine& line);

// Options of the subcommands that talk to a coordinator.
struct CoordinatorOptions {
  std::string address;  // "host:port", or several with commas between
  double timeout_s = 30;
  SecurityFlags security;

  [[nodiscard]] std::chrono::milliseconds timeout() const {
    return std::chrono::milliseconds(static_cast<int64_t>(timeout_s * 1000));
  }
};
void AddCoordinatorOptions(CLI::App& command, CoordinatorOptions& options);

// Writes to stdout. ERRORS: kIo (the reader closed the pipe, the disk is full).
[[nodiscard]] Status Print(std::string_view text);
[[nodiscard]] Status PrintJson(const nlohmann::ordered_json& document);

// A line on stderr that says how far a long step is; at most one a second.
class ProgressLine {
 public:
  // The line starts with "engramctl: "; `always` for a line that must not be skipped.
  void Show(std::string_view text, bool always = false);

 private:
  std::chrono::steady_clock::time_point last_{};
};

// "1.06 GiB", "388 B".
[[nodiscard]] std::string BytesText(uint64_t bytes);

// Runs engramctl. `arguments` without the program's name.
[[nodiscard]] int RunEngramctl(std::vector<std::string> arguments);

}  // namespace engram
