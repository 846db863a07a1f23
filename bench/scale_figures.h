// What engram-bench scale shows: its points, the arithmetic fitted to them, and what it says of a
// larger cluster.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "bench/latency_histogram.h"
#include "bench/scale_costs.h"

namespace engram::bench {

// One combination, and what each repetition of it gave.
struct ScalePoint {
  uint32_t nodes = 0;
  uint32_t clients = 0;
  uint64_t bytes = 0;  // of the tables
  uint32_t row_stride = 0;
  bool huge_pages = false;
  // [repetitions]
  std::vector<double> rows_s;  // of all clients
  std::vector<double> client_us_per_row;
  std::vector<double> node_us_per_row;
  std::vector<double> reads_per_row;
  std::vector<double> memory_per_row_byte;
  LatencyHistogram took;  // of a batch
};

// The points of nodes and clients, and those of table sizes (which may be none), with what was
// fitted to all of them together.
class ScaleFigures {
 public:
  // Precondition: !grid.empty(); every point has all repetitions.
  ScaleFigures(std::vector<ScalePoint> grid, std::vector<ScalePoint> sizes, const ScaleGoal& goal);

  [[nodiscard]] std::vector<Table> Tables() const;
  [[nodiscard]] std::vector<Plot> Plots() const;
  // Members "points" and "needs" of the report.
  [[nodiscard]] nlohmann::json PointsJson() const;
  [[nodiscard]] nlohmann::json NeedsJson() const;

 private:
  [[nodiscard]] double ArithmeticOverMeasured(const ScalePoint& point) const;
  [[nodiscard]] Table GridTable() const;
  [[nodiscard]] Table SizeTable() const;
  [[nodiscard]] Table NeedsTable() const;
  [[nodiscard]] Plot NodesPlot() const;
  [[nodiscard]] Plot SizesPlot() const;

  std::vector<ScalePoint> grid_;
  std::vector<ScalePoint> sizes_;
  ScaleGoal goal_;
  ScaleCosts costs_;
  ScaleNeeds needs_;
};

}  // namespace engram::bench
