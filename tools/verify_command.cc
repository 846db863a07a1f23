#include <filesystem>
#include <memory>
#include <random>
#include <thread>

#include "tools/command.h"
#include "tools/row_check.h"
#include "tools/row_reading.h"

namespace engram {
namespace {

constexpr auto kReportTime = std::chrono::milliseconds(300);

struct Options {
  RowReadingOptions reading;
  std::filesystem::path model_dir;
  bool all = false;
  uint64_t sample = 10000;
  uint64_t seed = 0;  // 0 = a fresh one
};

nlohmann::ordered_json ResultJson(const RowCheckResult& result, uint64_t version) {
  return {{"version", version},
          {"rows_verified", result.rows_verified},
          {"rows_wrong", result.rows_wrong},
          {"rows_failed", result.rows_failed},
          {"failures", result.failures}};
}

std::string ResultText(const RowCheckResult& result) {
  return std::to_string(result.rows_verified) + " rows verified, " +
         std::to_string(result.rows_wrong) + " wrong, " + std::to_string(result.rows_failed) +
         " could not be had";
}

Status Run(const Options& options, CommandLine& line) {
  const auto tables = ReadModelTables(options.model_dir, true);
  if (!tables.has_value()) return tables.error();
  auto connection = OpenRows(options.reading, &*tables);
  if (!connection.has_value()) return connection.error();
  const auto& layout = connection->directory->layout();
  auto checkpoint = CheckpointRows::Open(options.model_dir, layout);
  if (!checkpoint.has_value()) return checkpoint.error();

  RowCheck check(connection->rows.get(), &*checkpoint, layout.get());
  ProgressLine progress;
  const auto show = [&](const RowCheckResult& result) {
    progress.Show("verify: " + ResultText(result));
  };
  if (options.all) {
    ENGRAM_RETURN_IF_ERROR(check.CheckAll(show));
  } else {
    const uint64_t seed = options.seed != 0 ? options.seed : std::random_device{}();
    progress.Show(
        "verify: " + std::to_string(options.sample) + " rows, --seed " + std::to_string(seed),
        true);
    ENGRAM_RETURN_IF_ERROR(check.CheckSample(options.sample, seed, show));
  }

  const RowCheckResult& result = check.result();
  // Damaged slots are reported from the directory's own thread: let the last report leave.
  if (result.first_failure != StatusCode::kOk) std::this_thread::sleep_for(kReportTime);
  const uint64_t version = connection->directory->version().value();
  if (result.first_failure == StatusCode::kOk) {
    return line.json ? PrintJson(ResultJson(result, version))
                     : Print("version " + std::to_string(version) + ": " + ResultText(result) +
                             ", all as in " + options.model_dir.string() + "\n");
  }
  if (line.json) {
    ENGRAM_RETURN_IF_ERROR(PrintJson(ResultJson(result, version)));
    line.json_done = true;
  }
  std::string message = "version " + std::to_string(version) + ": " + ResultText(result);
  for (const std::string& failure : result.failures) message += "\n  " + failure;
  if (result.rows_failed + result.rows_wrong > result.failures.size()) message += "\n  ...";
  return Status(result.first_failure, message);
}

}  // namespace

void AddVerifyCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "verify", "Read rows from the memory nodes and compare them with the checkpoint");
  command->footer(
      "Every row's CRC is checked, then its bytes against the checkpoint's. Exit code 1 if any row "
      "is\n"
      "wrong or cannot be had; damaged slots are reported to the coordinator.");
  AddRowReadingOptions(*command, options->reading);
  command->add_option("--model", options->model_dir, "The checkpoint's folder")
      ->type_name("DIR")
      ->required();
  auto* sample = command->add_option("--sample", options->sample, "Rows drawn at random")
                     ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 40))
                     ->capture_default_str();
  command->add_flag("--all", options->all, "Every row of every slot instead")->excludes(sample);
  command->add_option("--seed", options->seed, "Of the sample (0 = a fresh one)")
      ->capture_default_str();
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram
