#include "bench/offload_figures.h"

#include <gtest/gtest.h>

#include "bench/report_page.h"
#include "tests/unit/bench/comparison_json.h"

namespace engram::bench {
namespace {

OffloadRun RunOf(const std::string& setting, const std::string& way, double concurrency,
                 const nlohmann::json& comparison) {
  OffloadRun run = *ParseOffloadRun(comparison.dump());
  run.setting = setting;
  run.way = way;
  run.concurrency = concurrency;
  return run;
}

std::vector<OffloadRun> MadeUpRuns() {
  return {RunOf("decode", "gather", 1, ComparisonJson({})),
          RunOf("paper", "gather", 1, ComparisonJson({.off_runs = 0})),
          RunOf("paper", "gather", 8, ComparisonJson({})),
          RunOf("paper", "mapped", 1, WithDevice(ComparisonJson({})))};
}

// The cell of that row in the first column of that name.
const Cell& CellOf(const Table& table, size_t row, const std::string& column) {
  for (size_t i = 0; i < table.columns.size(); ++i) {
    if (table.columns[i].label == column) return table.rows[row][i];
  }
  ADD_FAILURE() << "no column " << column;
  return table.rows[row][0];
}

TEST(OffloadFiguresTest, TablesHaveARowForEachRunAndSayWhatWasNotRun) {
  const std::vector<Table> tables = OffloadTables(MadeUpRuns());
  const Table& speed = tables[0];
  ASSERT_EQ(speed.rows.size(), 4u);
  EXPECT_EQ(CellOf(speed, 0, "setting"), Cell("decode"));
  EXPECT_EQ(CellOf(speed, 1, "requests"), Cell(1));
  EXPECT_EQ(CellOf(speed, 2, "requests"), Cell(8));
  EXPECT_EQ(CellOf(speed, 1, "off"), Cell("not run"));
  EXPECT_EQ(CellOf(speed, 1, "nodes / off"), Cell("not run"));
  EXPECT_EQ(CellOf(speed, 2, "nodes / off"), Cell(0.25));
  EXPECT_EQ(CellOf(speed, 2, "GPU"), Cell("not run"));
  EXPECT_EQ(CellOf(speed, 3, "GPU"), Cell(8));
  EXPECT_EQ(CellOf(speed, 3, "nodes / GPU"), Cell(0.25));
  EXPECT_EQ(CellOf(speed, 3, "from"), Cell(0.4));
  // Of each side that ran: three, two, three and four.
  EXPECT_EQ(tables[1].rows.size(), 12u);
  EXPECT_EQ(tables[2].rows.size(), 8u);
  EXPECT_EQ(CellOf(tables[2], 0, "% in time"), Cell(75));
  EXPECT_EQ(CellOf(tables[3], 0, "rows verified"), Cell(48));
  EXPECT_EQ(CellOf(tables[3], 0, "tokens of all runs"), Cell("the same"));
  EXPECT_EQ(CellOf(tables[4], 0, "on"), Cell("NVIDIA H200"));
}

TEST(OffloadFiguresTest, TokensThatDifferAreSaidLoudly) {
  std::vector<OffloadRun> runs = MadeUpRuns();
  runs[0].identical_tokens = false;
  EXPECT_EQ(CellOf(OffloadTables(runs)[3], 0, "tokens of all runs"), Cell("NOT THE SAME"));
}

TEST(OffloadFiguresTest, EachSettingHasItsPlotsWithAllWays) {
  const std::vector<Plot> plots = OffloadPlots(MadeUpRuns());
  ASSERT_EQ(plots.size(), 8u);
  const Plot& ratio = plots[4];
  EXPECT_EQ(ratio.title, "Tokens per second, memory nodes / in process: paper, small");
  ASSERT_EQ(ratio.series.size(), 2u);
  EXPECT_EQ(ratio.series[0].name, "gather");
  EXPECT_EQ(ratio.series[0].points.size(), 2u);
  EXPECT_EQ(ratio.series[1].low_high[0].low, 0.4);
  EXPECT_EQ(ratio.limits[0].y, kOffloadRatioWanted);

  const Plot& rates = plots[6];
  std::vector<std::string> names;
  for (const Series& series : rates.series) names.push_back(series.name);
  EXPECT_EQ(names, (std::vector<std::string>{"memory nodes, gather", "memory nodes, mapped",
                                             "in process", "GPU memory", "Engram off"}));
  // One point a concurrency: both ways had runs in process with one request.
  EXPECT_EQ(rates.series[2].points.size(), 2u);
  EXPECT_EQ(rates.series[2].points[0].y, 4);
  EXPECT_EQ(rates.series[2].low_high[0].high, 5);

  // Engram off has no ratio to itself, and the first run by gather none at all.
  const Plot& over_off = plots[5];
  ASSERT_EQ(over_off.series.size(), 4u);
  EXPECT_EQ(over_off.series[0].points.size(), 1u);
  EXPECT_EQ(over_off.series[0].points[0].y, 0.25);
}

// A ratio near one would be a flat line over zero.
TEST(OffloadFiguresTest, TheRatiosAxisIsAroundTheRatios) {
  std::vector<OffloadRun> runs = MadeUpRuns();
  for (OffloadRun& run : runs) {
    run.ratio = run.ratio_low = 0.98;
    run.ratio_high = 1;
  }
  ReportFile report;
  report.file = "offload.json";
  report.plots = {OffloadPlots(runs)[0]};
  const std::string page = MakePage({report});
  EXPECT_NE(page.find(">0.980</text>"), std::string::npos);
  EXPECT_EQ(page.find(">0.000</text>"), std::string::npos);
  EXPECT_EQ(page.find(">0</text>"), std::string::npos);
}

TEST(OffloadFiguresTest, ProgramsFindEachRunsSidesAndLayers) {
  const nlohmann::json runs = ToJson(MadeUpRuns());
  ASSERT_EQ(runs.size(), 4u);
  const nlohmann::json& mapped = runs[3];
  EXPECT_EQ(mapped.at("way"), "mapped");
  EXPECT_EQ(mapped.at("ratio"), 0.5);
  EXPECT_EQ(mapped.at("sides").at("device").at("tok_s").at("median"), 8);
  EXPECT_FALSE(runs[1].at("sides").contains("off"));
  EXPECT_TRUE(nlohmann::json::parse(runs[1].dump()).at("ratio_of_off").is_null());
  EXPECT_EQ(mapped.at("layers").at("2").at("in_time"), 0.75);
  EXPECT_EQ(mapped.at("rows_wrong"), 0);
  EXPECT_EQ(mapped.at("identical_tokens"), true);
}

}  // namespace
}  // namespace engram::bench
