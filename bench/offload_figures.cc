#include "bench/offload_figures.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "bench/number_text.h"

namespace engram::bench {
namespace {

using nlohmann::json;

constexpr std::array kSides = {OffloadSide::kRemote, OffloadSide::kInProcess, OffloadSide::kDevice,
                               OffloadSide::kOff};
// As keys of the report.
constexpr std::array<const char*, kOffloadSideCount> kSideKeys = {"remote", "in_process", "device",
                                                                  "off"};

// The columns that say which run a row is of.
Table TableOfRuns(std::string title, std::vector<Column> columns) {
  Table table{.title = std::move(title),
              .columns = {{"setting", ""}, {"shape", ""}, {"rows by", ""}, {"requests", ""}},
              .rows = {}};
  table.columns.insert(table.columns.end(), columns.begin(), columns.end());
  return table;
}

std::vector<Cell> CellsOf(const OffloadRun& run, std::vector<Cell> cells) {
  std::vector<Cell> row = {run.setting, run.shape, run.way, run.concurrency};
  row.insert(row.end(), cells.begin(), cells.end());
  return row;
}

Cell OrNotRun(double value) { return std::isnan(value) ? Cell("not run") : Cell(value); }

Table SpeedTable(const std::vector<OffloadRun>& runs) {
  Table table = TableOfRuns(
      "Generated tokens per second, prefill included: tables on memory nodes, in the worker's "
      "process, in GPU memory, Engram off",
      {{"nodes", "tokens/s"},
       {"in process", "tokens/s"},
       {"GPU", "tokens/s"},
       {"off", "tokens/s"},
       {"nodes / in process", ""},
       {"from", ""},
       {"to", ""},
       {"nodes / GPU", ""},
       {"nodes / off", ""}});
  for (const OffloadRun& run : runs) {
    const auto rate = [&run](OffloadSide side) {
      return run.side(side).has_value() ? Cell(run.side(side)->tok_s) : Cell("not run");
    };
    table.rows.push_back(CellsOf(
        run, {rate(OffloadSide::kRemote), rate(OffloadSide::kInProcess), rate(OffloadSide::kDevice),
              rate(OffloadSide::kOff), run.ratio, run.ratio_low, run.ratio_high,
              OrNotRun(run.ratio_of_device), OrNotRun(run.ratio_of_off())}));
  }
  return table;
}

Table LatencyTable(const std::vector<OffloadRun>& runs) {
  Table table = TableOfRuns("Time to first token (TTFT) and of each token after it (TPOT)",
                            {{"tables in", ""},
                             {"TTFT p50", "s"},
                             {"TTFT p99", "s"},
                             {"TPOT p50", "s"},
                             {"TPOT p99", "s"},
                             {"decode", "tokens/s"},
                             {"prefill", "tokens/s"}});
  for (const OffloadRun& run : runs) {
    for (const OffloadSide which : kSides) {
      const auto& side = run.side(which);
      if (!side.has_value()) continue;
      table.rows.push_back(CellsOf(
          run, {OffloadSideName(which), side->ttft_p50_s, side->ttft_p99_s, side->tpot_p50_s,
                side->tpot_p99_s, side->decode_tok_s, side->prefill_tok_s}));
    }
  }
  return table;
}

Table LayerTable(const std::vector<OffloadRun>& runs) {
  Table table = TableOfRuns("Waiting for rows, by Engram layer", {{"layer", ""},
                                                                  {"stall a step", "s"},
                                                                  {"in process", "s"},
                                                                  {"% in time", ""},
                                                                  {"read p50", "s"},
                                                                  {"read p99", "s"},
                                                                  {"window p50", "s"}});
  for (const OffloadRun& run : runs) {
    for (size_t i = 0; i < run.layers.size(); ++i) {
      const OffloadLayerFigures& layer = run.layers[i];
      table.rows.push_back(CellsOf(
          run, {layer.id, layer.stall_s, run.layers_in_process[i].stall_s, 100 * layer.in_time,
                layer.read_p50_s, layer.read_p99_s, layer.window_p50_s}));
    }
  }
  return table;
}

Table RowTable(const std::vector<OffloadRun>& runs) {
  Table table = TableOfRuns(
      "Rows from memory nodes, and the tokens that they gave",
      {{"rows verified", ""}, {"rows wrong", ""}, {"rows failed", ""}, {"tokens of all runs", ""}});
  for (const OffloadRun& run : runs) {
    table.rows.push_back(CellsOf(run, {run.rows_verified, run.rows_wrong, run.rows_failed,
                                       run.identical_tokens ? "the same" : "NOT THE SAME"}));
  }
  return table;
}

Table SetupTable(const std::vector<OffloadRun>& runs) {
  Table table = TableOfRuns("What ran", {{"backend", ""},
                                         {"on", ""},
                                         {"M parameters", ""},
                                         {"prompts", ""},
                                         {"tokens a prompt", ""},
                                         {"generated a prompt", ""},
                                         {"pairs", ""},
                                         {"% that the ratio is within from and to", ""},
                                         {"threads", ""},
                                         {"I/O threads", ""},
                                         {"row cache", "B"}});
  for (const OffloadRun& run : runs) {
    const double prompts = std::max(1.0, run.requests);
    table.rows.push_back(CellsOf(
        run, {run.backend, run.hardware, std::round(run.parameters_non_embedding / 1e6),
              run.requests, std::round(run.prompt_tokens / prompts),
              std::round(run.generated_tokens / prompts), run.pairs,
              std::round(100 * run.ratio_coverage), run.threads, run.io_threads, run.cache_bytes}));
  }
  return table;
}

// Runs of one setting and shape.
using Group = std::vector<const OffloadRun*>;

std::vector<Group> GroupsOf(const std::vector<OffloadRun>& runs) {
  std::vector<Group> groups;
  for (const OffloadRun& run : runs) {
    const bool same = !groups.empty() && groups.back().front()->setting == run.setting &&
                      groups.back().front()->shape == run.shape;
    if (!same) groups.emplace_back();
    groups.back().push_back(&run);
  }
  return groups;
}

Plot PlotOfGroup(const std::string& what, const Group& group, Axis y) {
  const OffloadRun& run = *group.front();
  return {.title = what + ": " + run.setting + ", " + run.shape,
          .kind = PlotKind::kLine,
          .x = {"requests at once", "", Scale::kLog2, {}},
          .y = std::move(y),
          .series = {},
          .limits = {}};
}

// The series of that name, a new one at the end if there is none.
Series& SeriesNamed(const std::string& name, Plot* plot) {
  const auto named = [&](const Series& series) { return series.name == name; };
  const auto found = std::find_if(plot->series.begin(), plot->series.end(), named);
  if (found != plot->series.end()) return *found;
  plot->series.push_back({.name = name, .points = {}, .low_high = {}});
  return plot->series.back();
}

Plot RatioPlot(const Group& group) {
  Plot plot = PlotOfGroup("Tokens per second, memory nodes / in process", group,
                          {"ratio", "", Scale::kLinear, {}, /*from_zero=*/false});
  for (const OffloadRun* run : group) {
    SeriesNamed(run->way, &plot)
        .Add(run->concurrency,
             Spread{.median = run->ratio, .least = run->ratio_low, .most = run->ratio_high});
  }
  plot.limits = {{"wanted", kOffloadRatioWanted}};
  return plot;
}

// A series for memory nodes by each way, and one for each other side: the ways had their own runs
// of it, which come together.
template <typename Values>  // (run, side) -> vector; empty: no point
Plot SidesPlot(const std::string& what, const Group& group, Axis y, const Values& values) {
  Plot plot = PlotOfGroup(what, group, std::move(y));
  for (const OffloadSide side : kSides) {
    std::map<std::pair<std::string, double>, std::vector<double>> points;  // by series, concurrency
    for (const OffloadRun* run : group) {
      if (!run->side(side).has_value()) continue;
      std::string name = OffloadSideName(side);
      if (side == OffloadSide::kRemote) name += ", " + run->way;
      std::vector<double>& all = points[{name, run->concurrency}];
      const std::vector<double> more = values(*run, side);
      all.insert(all.end(), more.begin(), more.end());
    }
    for (const auto& [place, all] : points) {
      if (!all.empty()) SeriesNamed(place.first, &plot).Add(place.second, SpreadOf(all));
    }
  }
  return plot;
}

std::vector<double> Rates(const OffloadRun& run, OffloadSide side) {
  return run.side(side)->tok_s_runs;
}

std::vector<double> RatesOverOff(const OffloadRun& run, OffloadSide side) {
  const auto& off = run.side(OffloadSide::kOff);
  if (side == OffloadSide::kOff || !off.has_value() || !(off->tok_s > 0)) return {};
  std::vector<double> ratios = Rates(run, side);
  for (double& ratio : ratios) ratio /= off->tok_s;
  return ratios;
}

std::vector<double> TokenTimes(const OffloadRun& run, OffloadSide side) {
  return {run.side(side)->tpot_p50_s};
}

json ToJson(const std::vector<OffloadLayerFigures>& layers) {
  json object = json::object();
  for (const OffloadLayerFigures& layer : layers) {
    object[layer.id] = {{"stall_s", layer.stall_s},
                        {"in_time", layer.in_time},
                        {"read_p50_s", layer.read_p50_s},
                        {"read_p99_s", layer.read_p99_s},
                        {"window_p50_s", layer.window_p50_s}};
  }
  return object;
}

json ToJson(const OffloadSideFigures& side) {
  return {{"tok_s", ToJson(SpreadOf(side.tok_s_runs))},
          {"decode_tok_s", side.decode_tok_s},
          {"prefill_tok_s", side.prefill_tok_s},
          {"ttft_p50_s", side.ttft_p50_s},
          {"ttft_p99_s", side.ttft_p99_s},
          {"tpot_p50_s", side.tpot_p50_s},
          {"tpot_p99_s", side.tpot_p99_s}};
}

json ToJson(const OffloadRun& run) {
  json object = {{"setting", run.setting},
                 {"shape", run.shape},
                 {"way", run.way},
                 {"backend", run.backend},
                 {"hardware", run.hardware},
                 {"concurrency", run.concurrency},
                 {"ratio", run.ratio},
                 {"ratio_interval", {run.ratio_low, run.ratio_high}},
                 {"ratio_interval_coverage", run.ratio_coverage},
                 {"ratio_of_device", run.ratio_of_device},
                 {"ratio_of_off", run.ratio_of_off()},
                 {"layers", ToJson(run.layers)},
                 {"layers_in_process", ToJson(run.layers_in_process)},
                 {"rows_verified", run.rows_verified},
                 {"rows_wrong", run.rows_wrong},
                 {"rows_failed", run.rows_failed},
                 {"identical_tokens", run.identical_tokens}};
  for (size_t i = 0; i < kOffloadSideCount; ++i) {
    if (run.sides[i].has_value()) object["sides"][kSideKeys[i]] = ToJson(*run.sides[i]);
  }
  return object;
}

}  // namespace

std::vector<Table> OffloadTables(const std::vector<OffloadRun>& runs) {
  return {SpeedTable(runs), LatencyTable(runs), LayerTable(runs), RowTable(runs), SetupTable(runs)};
}

std::vector<Plot> OffloadPlots(const std::vector<OffloadRun>& runs) {
  std::vector<Plot> plots;
  for (const Group& group : GroupsOf(runs)) {
    plots.push_back(RatioPlot(group));
    const Axis ratio = {"ratio", "", Scale::kLinear, {}, /*from_zero=*/false};
    plots.push_back(
        SidesPlot("Tokens per second / those with Engram off", group, ratio, RatesOverOff));
    plots.back().limits = {{"wanted", kOffloadRatioOfOffWanted}};
    const Axis rate = {"generated tokens", "tokens/s", Scale::kLog10, {}};
    plots.push_back(SidesPlot("Tokens per second", group, rate, Rates));
    const Axis time = {"TPOT p50", "s", Scale::kLog10, {}};
    plots.push_back(SidesPlot("Time of each token after the first, p50", group, time, TokenTimes));
  }
  return plots;
}

nlohmann::json ToJson(const std::vector<OffloadRun>& runs) {
  json array = json::array();
  for (const OffloadRun& run : runs) array.push_back(ToJson(run));
  return array;
}

}  // namespace engram::bench
