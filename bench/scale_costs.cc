#include "bench/scale_costs.h"

#include <algorithm>
#include <cmath>

namespace engram::bench {

CostModel FitCosts(std::span<const CostPoint> points) {
  const auto count = static_cast<double>(points.size());
  double reads = 0;
  double cost = 0;
  for (const CostPoint& point : points) {
    reads += point.reads_per_row / count;
    cost += point.cpu_us_per_row / count;
  }
  double variance = 0;
  double covariance = 0;
  for (const CostPoint& point : points) {
    variance += (point.reads_per_row - reads) * (point.reads_per_row - reads);
    covariance += (point.reads_per_row - reads) * (point.cpu_us_per_row - cost);
  }
  // Rounding of equal values is no variance.
  if (variance <= 1e-12 * count * reads * reads) return {.us_per_row = cost};
  const double slope = covariance / variance;
  const double at_none = cost - slope * reads;
  if (slope < 0 || at_none < 0) return {.us_per_row = cost};
  return {.us_per_row = at_none, .us_per_read = slope};
}

ScaleNeeds NeedsOf(const ScaleGoal& goal, const ScaleCosts& costs) {
  ScaleNeeds needs;
  needs.nodes = std::max(
      1.0, std::ceil(goal.table_bytes * costs.memory_per_row_byte / goal.node_memory_bytes));
  needs.rows_s = goal.tokens_s * goal.rows_per_token;
  // A batch asks every node, in one message or as many as its rows need.
  needs.reads_per_row = std::max(needs.nodes / goal.batch_rows, 1 / costs.read_rows_max);
  needs.client_cores = 1e-6 * needs.rows_s * costs.client.UsPerRow(needs.reads_per_row);
  needs.node_cores = 1e-6 * needs.rows_s * costs.node.UsPerRow(needs.reads_per_row);
  needs.wire_bytes_s = needs.rows_s * costs.wire_bytes_per_row;
  return needs;
}

}  // namespace engram::bench
