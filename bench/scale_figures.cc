#include "bench/scale_figures.h"

#include <algorithm>
#include <string>
#include <utility>

#include "bench/repetitions.h"

namespace engram::bench {
namespace {

// Medians of a side's repetitions.
CostPoint Cost(const ScalePoint& point, const std::vector<double>& us_per_row) {
  return {SpreadOf(point.reads_per_row).median, SpreadOf(us_per_row).median};
}
CostPoint ClientCost(const ScalePoint& point) { return Cost(point, point.client_us_per_row); }
CostPoint NodeCost(const ScalePoint& point) { return Cost(point, point.node_us_per_row); }

// The rate of the same repetition with the grid's first number of nodes.
Spread OfFirstNodes(const std::vector<ScalePoint>& grid, const ScalePoint& point) {
  const ScalePoint& first = *std::find_if(grid.begin(), grid.end(), [&](const ScalePoint& other) {
    return other.clients == point.clients;
  });
  std::vector<double> ratios;
  for (size_t i = 0; i < point.rows_s.size(); ++i) {
    ratios.push_back(point.rows_s[i] / first.rows_s[i]);
  }
  return SpreadOf(ratios);
}

// The CPU time of a row over that of the same repetition with the first size.
Spread OfFirstSize(const ScalePoint& first, const ScalePoint& point) {
  std::vector<double> ratios;
  for (size_t i = 0; i < point.rows_s.size(); ++i) {
    ratios.push_back((point.client_us_per_row[i] + point.node_us_per_row[i]) /
                     (first.client_us_per_row[i] + first.node_us_per_row[i]));
  }
  return SpreadOf(ratios);
}

}  // namespace

ScaleFigures::ScaleFigures(std::vector<ScalePoint> grid, std::vector<ScalePoint> sizes,
                           const ScaleGoal& goal)
    : grid_(std::move(grid)), sizes_(std::move(sizes)), goal_(goal) {
  std::vector<CostPoint> client;
  std::vector<CostPoint> node;
  std::vector<double> memory;
  for (const auto* points : {&grid_, &sizes_}) {
    for (const ScalePoint& point : *points) {
      client.push_back(ClientCost(point));
      node.push_back(NodeCost(point));
      memory.push_back(SpreadOf(point.memory_per_row_byte).median);
    }
  }
  costs_ = {.client = FitCosts(client),
            .node = FitCosts(node),
            .memory_per_row_byte = SpreadOf(memory).most,
            .wire_bytes_per_row = static_cast<double>(grid_.front().row_stride + sizeof(uint64_t))};
  needs_ = NeedsOf(goal_, costs_);
}

std::vector<Table> ScaleFigures::Tables() const {
  std::vector<Table> tables = {GridTable()};
  if (!sizes_.empty()) tables.push_back(SizeTable());
  tables.push_back(NeedsTable());
  return tables;
}

std::vector<Plot> ScaleFigures::Plots() const {
  std::vector<Plot> plots = {NodesPlot()};
  if (!sizes_.empty()) plots.push_back(SizesPlot());
  return plots;
}

double ScaleFigures::ArithmeticOverMeasured(const ScalePoint& point) const {
  const CostPoint client = ClientCost(point);
  const CostPoint node = NodeCost(point);
  return (costs_.client.UsPerRow(client.reads_per_row) + costs_.node.UsPerRow(node.reads_per_row)) /
         (client.cpu_us_per_row + node.cpu_us_per_row);
}

Table ScaleFigures::GridTable() const {
  Table table{.title = "Nodes and clients, all on this machine",
              .columns = {{"nodes", ""},
                          {"clients", ""},
                          {"all clients", "rows/s"},
                          {"of the first nodes'", ""},
                          {"batch p50", "s"},
                          {"batch p99", "s"},
                          {"client CPU", "s/row"},
                          {"node CPU", "s/row"},
                          {"rows of a read", ""},
                          {"arithmetic / measured", ""}},
              .rows = {}};
  for (const ScalePoint& point : grid_) {
    table.rows.push_back({point.nodes, point.clients, SpreadOf(point.rows_s).median,
                          OfFirstNodes(grid_, point).median, 1e-6 * point.took.PercentileUs(0.5),
                          1e-6 * point.took.PercentileUs(0.99),
                          1e-6 * ClientCost(point).cpu_us_per_row,
                          1e-6 * NodeCost(point).cpu_us_per_row,
                          1 / ClientCost(point).reads_per_row, ArithmeticOverMeasured(point)});
  }
  return table;
}

Table ScaleFigures::SizeTable() const {
  Table table{.title = "Sizes of the tables, read by one client",
              .columns = {{"tables", "B"},
                          {"pages", ""},
                          {"client", "rows/s"},
                          {"CPU of both", "s/row"},
                          {"of the first size's", ""},
                          {"least", ""},
                          {"most", ""},
                          {"memory / row bytes", ""},
                          {"arithmetic / measured", ""}},
              .rows = {}};
  for (const ScalePoint& point : sizes_) {
    const Spread of_first = OfFirstSize(sizes_.front(), point);
    table.rows.push_back(
        {point.bytes, point.huge_pages ? "huge" : "4 KiB", SpreadOf(point.rows_s).median,
         1e-6 * (ClientCost(point).cpu_us_per_row + NodeCost(point).cpu_us_per_row),
         of_first.median, of_first.least, of_first.most, SpreadOf(point.memory_per_row_byte).median,
         ArithmeticOverMeasured(point)});
  }
  return table;
}

Table ScaleFigures::NeedsTable() const {
  return {
      .title = "What that amounts to, on cores as fast as these",
      .columns = {{"tables", "B"},
                  {"tokens", "tokens/s"},
                  {"rows", "rows/s"},
                  {"memory nodes", ""},
                  {"cores of nodes", ""},
                  {"cores of clients", ""},
                  {"all rows", "B/s"},
                  {"of each node", "B/s"}},
      .rows = {{goal_.table_bytes, goal_.tokens_s, needs_.rows_s, needs_.nodes, needs_.node_cores,
                needs_.client_cores, needs_.wire_bytes_s, needs_.wire_bytes_s / needs_.nodes}}};
}

Plot ScaleFigures::NodesPlot() const {
  Plot plot{.title = "Rows of all clients, all on one machine",
            .kind = PlotKind::kLine,
            .x = {"memory nodes", "", Scale::kLog2, {}},
            .y = {"rows", "rows/s", Scale::kLinear, {}},
            .series = {},
            .limits = {}};
  for (const ScalePoint& point : grid_) {
    const std::string name =
        std::to_string(point.clients) + (point.clients == 1 ? " client" : " clients");
    auto series = std::find_if(plot.series.begin(), plot.series.end(),
                               [&](const Series& known) { return known.name == name; });
    if (series == plot.series.end()) {
      series = plot.series.insert(plot.series.end(), {.name = name, .points = {}, .low_high = {}});
    }
    series->Add(point.nodes, SpreadOf(point.rows_s));
  }
  return plot;
}

Plot ScaleFigures::SizesPlot() const {
  Series client{.name = "client", .points = {}, .low_high = {}};
  Series node{.name = "node", .points = {}, .low_high = {}};
  for (const ScalePoint& point : sizes_) {
    const auto bytes = static_cast<double>(point.bytes);
    client.Add(bytes, 1e-6 * ClientCost(point).cpu_us_per_row);
    node.Add(bytes, 1e-6 * NodeCost(point).cpu_us_per_row);
  }
  return {.title = "CPU time of a row",
          .kind = PlotKind::kLine,
          .x = {"tables", "B", Scale::kLog2, {}},
          .y = {"CPU", "s/row", Scale::kLinear, {}},
          .series = {client, node},
          .limits = {}};
}

nlohmann::json ScaleFigures::PointsJson() const {
  nlohmann::json json = nlohmann::json::array();
  for (const auto* points : {&grid_, &sizes_}) {
    for (const ScalePoint& point : *points) {
      json.push_back({{"nodes", point.nodes},
                      {"clients", point.clients},
                      {"bytes", point.bytes},
                      {"huge_pages", point.huge_pages},
                      {"rows_s", ToJson(SpreadOf(point.rows_s))},
                      {"client_us_per_row", ToJson(SpreadOf(point.client_us_per_row))},
                      {"node_us_per_row", ToJson(SpreadOf(point.node_us_per_row))},
                      {"reads_per_row", SpreadOf(point.reads_per_row).median},
                      {"memory_per_row_byte", SpreadOf(point.memory_per_row_byte).median},
                      {"arithmetic_over_measured", ArithmeticOverMeasured(point)},
                      {"p50_us", point.took.PercentileUs(0.5)},
                      {"p99_us", point.took.PercentileUs(0.99)},
                      {"latency_bins", point.took.ToJson()}});
    }
  }
  return json;
}

nlohmann::json ScaleFigures::NeedsJson() const {
  const auto model = [](const CostModel& costs) {
    return nlohmann::json{{"us_per_row", costs.us_per_row}, {"us_per_read", costs.us_per_read}};
  };
  return {{"table_bytes", goal_.table_bytes},
          {"tokens_s", goal_.tokens_s},
          {"node_memory_bytes", goal_.node_memory_bytes},
          {"client", model(costs_.client)},
          {"node", model(costs_.node)},
          {"memory_per_row_byte", costs_.memory_per_row_byte},
          {"rows_s", needs_.rows_s},
          {"nodes", needs_.nodes},
          {"reads_per_row", needs_.reads_per_row},
          {"client_cores", needs_.client_cores},
          {"node_cores", needs_.node_cores},
          {"wire_bytes_s", needs_.wire_bytes_s}};
}

}  // namespace engram::bench
