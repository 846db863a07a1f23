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
  std::vector<std::string> files;
  std::optional<double> load_average;
  std::string json_file;
};

Status RunOffload(const OffloadOptions& options) {
  std::vector<OffloadRun> runs;
  for (const std::string& file : options.files) {
    auto run = ReadOffloadRun(file);
    if (!run.has_value()) return run.error();
    runs.push_back(*std::move(run));
  }
  SortRuns(&runs);

  Report report("offload", 0, "What do tables on memory nodes cost a model?");
  report.SetLoadAverage(options.load_average);
  report.AddSetting("ratio_wanted", kOffloadRatioWanted);
  report.AddResult("runs", ToJson(runs));
  for (const Table& table : OffloadTables(runs)) {
    PrintTable(table);
    report.AddTable(table);
  }
  for (const Plot& plot : OffloadPlots(runs)) report.AddPlot(plot);
  return report.Write(options.json_file);
}

}  // namespace

void AddOffloadCommand(CLI::App& app, Status& outcome) {
  auto options = std::make_shared<OffloadOptions>();
  CLI::App* command = app.add_subcommand(
      "offload", "What do tables on memory nodes cost a model? (of runs that bench/offload made)");
  command->footer(
      "Measures nothing: bench/offload runs the models and calls this at its end. The name of a\n"
      "file's folder says which setting it is of, so that runs of several days, ways and shapes\n"
      "become one report:\n"
      "\n"
      "  engram-bench offload runs/*/*.json --json offload.json\n"
      "  engram-bench report offload.json --out offload.html");
  command
      ->add_option("files", options->files,
                   "What `engram-model-worker compare --json SETTING/FILE` wrote")
      ->required()
      ->expected(1, 1000)
      ->type_name("SETTING/FILE.json");
  command->add_option("--load-average", options->load_average,
                      "Of the machine before the runs, for the report; else unknown");
  command->add_option("--json", options->json_file, "Write the report here");
  command->callback([options, &outcome] { outcome = RunOffload(*options); });
}

}  // namespace engram::bench
