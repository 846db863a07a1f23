#include "bench/scale_costs.h"

#include <vector>

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

TEST(ScaleCostsTest, RowsAndReadsAreToldApart) {
  // 0.25 us a row and 10 us a read.
  std::vector<CostPoint> points;
  for (const double reads : {0.001, 0.002, 0.004, 0.008}) {
    points.push_back({reads, 0.25 + 10 * reads});
  }
  const CostModel model = FitCosts(points);
  EXPECT_NEAR(model.us_per_row, 0.25, 1e-9);
  EXPECT_NEAR(model.us_per_read, 10, 1e-6);
  EXPECT_NEAR(model.UsPerRow(0.02), 0.45, 1e-9);
}

TEST(ScaleCostsTest, ReadsOfOneSizeCostNothingOfTheirOwn) {
  const std::vector<CostPoint> points = {{0.1 + 0.2, 0.3}, {0.3, 0.5}};
  const CostModel model = FitCosts(points);
  EXPECT_DOUBLE_EQ(model.us_per_row, 0.4);
  EXPECT_EQ(model.us_per_read, 0);
}

TEST(ScaleCostsTest, NothingCostsLessThanNothing) {
  const std::vector<CostPoint> cheaper_reads = {{0.001, 0.5}, {0.008, 0.4}};
  EXPECT_EQ(FitCosts(cheaper_reads).us_per_read, 0);
  EXPECT_DOUBLE_EQ(FitCosts(cheaper_reads).us_per_row, 0.45);
  const std::vector<CostPoint> free_rows = {{0.001, 0.1}, {0.002, 0.9}};
  EXPECT_EQ(FitCosts(free_rows).us_per_read, 0);
}

TEST(ScaleCostsTest, ATerabyteAndAMillionTokensASecond) {
  ScaleGoal goal;
  goal.node_memory_bytes = 256e9;
  const ScaleCosts costs = {.client = {.us_per_row = 0.2},
                            .node = {.us_per_row = 0.1, .us_per_read = 10},
                            .memory_per_row_byte = 1.02,
                            .wire_bytes_per_row = 276};
  const ScaleNeeds needs = NeedsOf(goal, costs);
  EXPECT_EQ(needs.nodes, 4);  // 1.02e12 in 256e9 each
  EXPECT_EQ(needs.rows_s, 48e6);
  EXPECT_DOUBLE_EQ(needs.reads_per_row, 1.0 / 1024);  // 12,288 rows over four nodes fill reads
  EXPECT_NEAR(needs.client_cores, 9.6, 1e-9);
  EXPECT_NEAR(needs.node_cores, 48 * (0.1 + 10.0 / 1024), 1e-9);
  EXPECT_NEAR(needs.wire_bytes_s, 13.248e9, 1);
  goal.batch_rows = 48;  // a token of its own: 12 rows from each node
  EXPECT_DOUBLE_EQ(NeedsOf(goal, costs).reads_per_row, 4.0 / 48);
}

TEST(ScaleCostsTest, EvenASmallTableIsOnANode) {
  ScaleGoal goal;
  goal.table_bytes = 1;
  EXPECT_EQ(NeedsOf(goal, {}).nodes, 1);
}

}  // namespace
}  // namespace engram::bench
