#include "tools/command.h"

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

namespace engram {
namespace {

constexpr auto kProgressInterval = std::chrono::seconds(1);

}  // namespace

void AddCoordinatorOptions(CLI::App& command, CoordinatorOptions& options) {
  command
      .add_option("--coordinator", options.address,
                  "Where engram-coordinator listens for calls (its --listen); several with commas "
                  "between: the one that leads is found")
      ->type_name("HOST:PORT,...")
      ->envname("ENGRAM_COORDINATOR")
      ->required();
  AddSecurityFlags(&command, &options.security);
  command.add_option("--timeout-s", options.timeout_s, "Give up on one call after so many seconds")
      ->check(CLI::Range(0.001, 86400.0))
      ->capture_default_str();
}

Status Print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return Status(StatusCode::kIo, "cannot write to stdout: " + std::string(std::strerror(errno)));
  }
  return Status();
}

Status PrintJson(const nlohmann::ordered_json& document) {
  using nlohmann::ordered_json;
  return Print(document.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n");
}

void ProgressLine::Show(std::string_view text, bool always) {
  const auto now = std::chrono::steady_clock::now();
  if (!always && now - last_ < kProgressInterval) return;
  last_ = now;
  std::fprintf(stderr, "engramctl: %.*s\n", static_cast<int>(text.size()), text.data());
}

std::string BytesText(uint64_t bytes) {
  static constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), unit == 0 ? "%.0f %s" : "%.2f %s", value, kUnits[unit]);
  return text.data();
}

int RunEngramctl(std::vector<std::string> arguments) {
  CommandLine line;
  CLI::App app(
      "engramctl: make, inspect and serve models with Engram tables.\n"
      "Exit codes: 0 done, 1 failed (the message says why), 2 wrong usage.",
      "engramctl");
  app.require_subcommand(1);
  app.fallthrough();
  app.add_flag("--json", line.json, "Print one JSON document, for programs");
  AddMakeModelCommand(app, line);
  AddHashCommand(app, line);
  AddTokenizeCommand(app, line);
  AddCreateVersionCommand(app, line);
  AddStatusCommand(app, line);
  AddNodeCommands(app, line);
  AddScaleInCommand(app, line);
  AddRollCommand(app, line);
  AddSlotsCommand(app, line);
  AddPlanCommand(app, line);
  AddVersionCommands(app, line);
  AddEventsCommand(app, line);
  AddCertsCommand(app, line);
  AddAuditCommand(app, line);
  AddProbeCommand(app, line);
  AddLookupCommand(app, line);
  AddVerifyCommand(app, line);

  std::vector<std::string> reversed(arguments.rbegin(), arguments.rend());
  try {
    app.parse(std::move(reversed));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  const Status status = line.run();
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "engramctl: %s\n", status.ToString().c_str());
  if (line.json && !line.json_done) {
    const nlohmann::ordered_json document = {
        {"error",
         {{"code", std::string(StatusCodeName(status.code()))}, {"message", status.message()}}}};
    (void)PrintJson(document);
  }
  return kExitFailed;
}

}  // namespace engram
