// What do tables on memory nodes cost a model? The comparisons of bench/offload as one report.
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bench/command.h"
#include "bench/offload_figures.h"
#include "bench/offload_run.h"
#include "bench/report.h"
#include "bench/table_text.h"

namespace engram::bench {
namespace {

struct OffloadOptions {
  std::string folder;
  std::optional<double> load_average;
  std::string json_file;
};

Status RunOffload(const OffloadOptions& options) {
  const auto runs = ReadOffloadRuns(options.folder);
  if (!runs.has_value()) return runs.error();

  Report report("offload", 0, "What do tables on memory nodes cost a model?");
  report.SetLoadAverage(options.load_average);
  report.AddSetting("ratio_wanted", kOffloadRatioWanted);
  report.AddResult("runs", ToJson(*runs));
  for (const Table& table : OffloadTables(*runs)) {
    PrintTable(table);
    report.AddTable(table);
  }
  for (const Plot& plot : OffloadPlots(*runs)) report.AddPlot(plot);
  return report.Write(options.json_file);
}

}  // namespace

void AddOffloadCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<OffloadOptions>();
  CLI::App* command = app.add_subcommand(
      "offload", "What do tables on memory nodes cost a model? (of runs that bench/offload made)");
  command->footer(
      "Measures nothing: bench/offload runs the models and calls this at its end. What is in the\n"
      "folder becomes one report, of several days, settings, shapes and ways:\n"
      "\n"
      "  engram-model-worker compare ... --json runs/decode/4b-32.json\n"
      "  engram-bench offload runs --json offload.json\n"
      "  engram-bench report offload.json --out offload.html");
  command
      ->add_option(
          "folder", options->folder,
          "Has a folder for each setting, with files of `engram-model-worker compare --json`")
      ->required()
      ->type_name("FOLDER");
  command->add_option("--load-average", options->load_average,
                      "Of the machine before the runs, for the report; else unknown");
  command->add_option("--json", options->json_file, "Write the report here");
  command->callback([options, &outcome] { outcome = RunOffload(*options); });
}

}  // namespace engram::bench
