#include "bench/read_figures.h"

#include <iterator>
#include <numeric>
#include <string>
#include <utility>

namespace engram::bench {
namespace {

// Stages in the order of a row's way; those of no row last.
constexpr FillStage kStagesShown[] = {FillStage::kHash,    FillStage::kPlan,   FillStage::kPost,
                                      FillStage::kWire,    FillStage::kTrack,  FillStage::kVerify,
                                      FillStage::kScatter, FillStage::kAsleep, FillStage::kOther};
static_assert(std::size(kStagesShown) == kFillStageCount);

// Microseconds of the I/O threads for each delivered row.
double StageUsPerRow(const ReadFigures& batch, FillStage stage) {
  const uint64_t looks = std::accumulate(batch.stages.begin(), batch.stages.end(), uint64_t{0});
  if (looks == 0) return 0;
  return batch.thread_us_per_row * static_cast<double>(batch.stages[static_cast<size_t>(stage)]) /
         static_cast<double>(looks);
}

Table RateTable(const std::vector<ReadFigures>& batches) {
  const bool own_nodes = batches.front().own_nodes;
  Table table{.title = own_nodes ? "Rows delivered: stack, floor and a local gather by one thread"
                                 : "Rows delivered",
              .columns = {{"rows of a batch", ""}, {"stack", "rows/s"}},
              .rows = {}};
  if (own_nodes) {
    for (const char* rate : {"floor", "local"}) table.columns.push_back({rate, "rows/s"});
    table.columns.push_back({"stack/floor", ""});
  }
  table.columns.insert(table.columns.end(),
                       {{"least", own_nodes ? "" : "rows/s"}, {"most", own_nodes ? "" : "rows/s"}});
  for (const ReadFigures& batch : batches) {
    std::vector<Cell> cells = {batch.rows, batch.stack_rows_s.median};
    if (own_nodes) {
      for (const double value :
           {batch.floor_rows_s.median, batch.local_rows_s.median, batch.ratio.median}) {
        cells.emplace_back(value);
      }
    }
    const Spread& spread = own_nodes ? batch.ratio : batch.stack_rows_s;
    cells.emplace_back(spread.least);
    cells.emplace_back(spread.most);
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Table LatencyTable(const std::vector<ReadFigures>& batches) {
  const bool own_nodes = batches.front().own_nodes;
  Table table{.title = "Time of a batch",
              .columns = {{"rows of a batch", ""}, {"p50", "s"}, {"p99", "s"}, {"p99.9", "s"}},
              .rows = {}};
  if (own_nodes)
    table.columns.insert(table.columns.end(), {{"floor p50", "s"}, {"floor p99", "s"}});
  for (const ReadFigures& batch : batches) {
    std::vector<Cell> cells = {batch.rows};
    for (const double fraction : {0.5, 0.99, 0.999}) {
      cells.emplace_back(1e-6 * batch.stack_took.PercentileUs(fraction));
    }
    if (own_nodes) {
      for (const double fraction : {0.5, 0.99}) {
        cells.emplace_back(1e-6 * batch.floor_took.PercentileUs(fraction));
      }
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Table CostTable(const std::vector<ReadFigures>& batches) {
  const bool own_nodes = batches.front().own_nodes;
  Table table{.title = own_nodes ? "What a delivered row costs, and the floor's messages"
                                 : "What a delivered row costs",
              .columns = {{"rows of a batch", ""},
                          {"client CPU", "s/row"},
                          {"% deduped", ""},
                          {"% from cache", ""}},
              .rows = {}};
  if (own_nodes) {
    table.columns.insert(table.columns.end(),
                         {{"node CPU", "s/row"}, {"floor: rows of a message", ""}, {"sent", ""}});
  }
  for (const ReadFigures& batch : batches) {
    std::vector<Cell> cells = {batch.rows, 1e-6 * batch.client_cpu_us_per_row, 100 * batch.deduped,
                               100 * batch.from_cache};
    if (own_nodes) {
      cells.emplace_back(1e-6 * batch.node_cpu_us_per_row);
      cells.emplace_back(batch.floor_messages.rows_max);
      cells.emplace_back(batch.floor_messages.eager ? "eagerly" : "as UCX likes");
    }
    table.rows.push_back(std::move(cells));
  }
  return table;
}

Table StageTable(const std::vector<ReadFigures>& batches) {
  Table table{.title = "Where the client's I/O threads are, their time for each delivered row",
              .columns = {{"rows of a batch", ""}},
              .rows = {}};
  for (const FillStage stage : kStagesShown) {
    table.columns.push_back({std::string(kFillStageNames[static_cast<size_t>(stage)]), "s/row"});
  }
  for (const ReadFigures& batch : batches) {
    std::vector<Cell> cells = {batch.rows};
    for (const FillStage stage : kStagesShown)
      cells.emplace_back(1e-6 * StageUsPerRow(batch, stage));
    table.rows.push_back(std::move(cells));
  }
  return table;
}

}  // namespace

nlohmann::json ToJson(const ReadFigures& figures) {
  nlohmann::json json = {{"rows", figures.rows},
                         {"stack", ToJson(figures.stack_rows_s)},
                         {"p50_us", figures.stack_took.PercentileUs(0.5)},
                         {"p99_us", figures.stack_took.PercentileUs(0.99)},
                         {"p999_us", figures.stack_took.PercentileUs(0.999)},
                         {"client_cpu_us_per_row", figures.client_cpu_us_per_row},
                         {"rows_from_cache", figures.from_cache},
                         {"rows_deduped", figures.deduped},
                         {"latency_bins", figures.stack_took.ToJson()}};
  if (figures.own_nodes) {
    json.update({{"floor", ToJson(figures.floor_rows_s)},
                 {"local", ToJson(figures.local_rows_s)},
                 {"stack_over_floor", ToJson(figures.ratio)},
                 {"floor_p50_us", figures.floor_took.PercentileUs(0.5)},
                 {"floor_p99_us", figures.floor_took.PercentileUs(0.99)},
                 {"floor_rows_a_message", figures.floor_messages.rows_max},
                 {"floor_eager", figures.floor_messages.eager},
                 {"node_cpu_us_per_row", figures.node_cpu_us_per_row},
                 {"floor_latency_bins", figures.floor_took.ToJson()}});
  }
  for (const FillStage stage : kStagesShown) {
    const std::string name(kFillStageNames[static_cast<size_t>(stage)]);
    json["stage_us_per_row"][name] = StageUsPerRow(figures, stage);
  }
  return json;
}

std::vector<Table> ReadTables(const std::vector<ReadFigures>& figures, bool profile) {
  std::vector<Table> tables = {RateTable(figures), LatencyTable(figures), CostTable(figures)};
  if (profile) tables.push_back(StageTable(figures));
  return tables;
}

Plot RatePlot(const std::vector<ReadFigures>& figures) {
  Series stack{.name = "stack", .points = {}, .low_high = {}};
  Series floor{.name = "floor", .points = {}, .low_high = {}};
  Series local{.name = "local gather, one thread", .points = {}, .low_high = {}};
  for (const ReadFigures& batch : figures) {
    stack.Add(batch.rows, batch.stack_rows_s);
    floor.Add(batch.rows, batch.floor_rows_s);
    local.Add(batch.rows, batch.local_rows_s);
  }
  Plot plot{.title = "Rows delivered over the rows of a batch",
            .kind = PlotKind::kLine,
            .x = {"rows of a batch", "", Scale::kLog2, {}},
            .y = {"rows delivered", "rows/s", Scale::kLinear, {}},
            .series = {stack},
            .limits = {}};
  if (figures.front().own_nodes) plot.series.insert(plot.series.end(), {floor, local});
  return plot;
}

Plot LatencyPlot(const ReadFigures& figures) {
  Plot plot{.title = "Time of a batch of " + std::to_string(figures.rows) + " rows",
            .kind = PlotKind::kCdf,
            .x = {"time of a batch", "s", Scale::kLog10, {}},
            .y = {"batches that took at most so long", "", Scale::kLinear, {}},
            .series = {figures.stack_took.Cumulative("stack")},
            .limits = {}};
  if (figures.own_nodes) plot.series.push_back(figures.floor_took.Cumulative("floor"));
  return plot;
}

}  // namespace engram::bench
