// What reading a row costs as a cluster grows, and what a larger one takes: arithmetic on measured
// points. Pure.
#pragma once

#include <cstdint>
#include <span>

namespace engram::bench {

// One measured point: so many nodes and clients, and what they cost.
struct CostPoint {
  double reads_per_row = 0;  // a read is one message to a node and its answer
  double cpu_us_per_row = 0;
};

// cpu_us_per_row = us_per_row + us_per_read * reads_per_row: rows cost what they cost, and the more
// nodes a batch is spread over, the fewer rows share a message.
struct CostModel {
  double us_per_row = 0;
  double us_per_read = 0;

  [[nodiscard]] double UsPerRow(double reads_per_row) const {
    return us_per_row + us_per_read * reads_per_row;
  }
};
// Least squares; where messages are all of one size, or cost less than nothing, they are free and
// rows cost the mean. Precondition: !points.empty().
[[nodiscard]] CostModel FitCosts(std::span<const CostPoint> points);

// What is to be served.
struct ScaleGoal {
  double table_bytes = 1e12;
  double tokens_s = 1e6;
  double rows_per_token = 48;  // none of them deduped or cached
  double node_memory_bytes = 256.0 * (uint64_t{1} << 30);
  double batch_rows = 12288;
};
// What a row takes.
struct ScaleCosts {
  CostModel client;
  CostModel node;
  double memory_per_row_byte = 1;
  double wire_bytes_per_row = 0;
  double read_rows_max = 1024;
};
struct ScaleNeeds {
  double nodes = 0;  // by memory
  double rows_s = 0;
  double reads_per_row = 0;
  double client_cores = 0;
  double node_cores = 0;  // of all nodes
  double wire_bytes_s = 0;
};
[[nodiscard]] ScaleNeeds NeedsOf(const ScaleGoal& goal, const ScaleCosts& costs);

}  // namespace engram::bench
