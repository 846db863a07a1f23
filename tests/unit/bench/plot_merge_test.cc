#include "bench/plot_merge.h"

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

Plot PlotOf(const std::string& title, const std::vector<std::string>& series, double limit) {
  Plot plot{.title = title,
            .kind = PlotKind::kBar,
            .x = {},
            .y = {"rate", "rows/s", Scale::kLinear, {}},
            .series = {},
            .limits = {{"wanted", 3}, {"bound", limit}}};
  for (const std::string& name : series) plot.series.push_back({name, {{0, 1}}, {}});
  return plot;
}

std::vector<std::string> SeriesNames(const MergedPlot& merged) {
  std::vector<std::string> names;
  for (const Series& series : merged.plot.series) names.push_back(series.name);
  return names;
}

using Names = std::vector<std::string>;

TEST(PlotMergeTest, OneRunStaysAsItIs) {
  const auto merged = MergePlots({{"a", {PlotOf("Rows", {"gather", "mapped"}, 5)}}});
  ASSERT_EQ(merged.size(), 1u);
  EXPECT_EQ(SeriesNames(merged[0]), (Names{"gather", "mapped"}));
  EXPECT_EQ(merged[0].styles[1].colour, 1u);
  EXPECT_EQ(merged[0].plot.limits.size(), 2u);
}

TEST(PlotMergeTest, SameTitlesShareAPlotAndTheirSeriesAColour) {
  const auto merged = MergePlots({{"a", {PlotOf("Rows", {"gather", "mapped"}, 5)}},
                                  {"b", {PlotOf("Rows", {"mapped", "gather"}, 6)}}});
  ASSERT_EQ(merged.size(), 1u);
  // What is compared stands beside each other.
  EXPECT_EQ(SeriesNames(merged[0]),
            (Names{"gather \u2013 a", "gather \u2013 b", "mapped \u2013 a", "mapped \u2013 b"}));
  EXPECT_EQ(merged[0].styles[0].colour, merged[0].styles[1].colour);
  EXPECT_NE(merged[0].styles[0].run, merged[0].styles[1].run);
  // What all have in common is said once.
  ASSERT_EQ(merged[0].plot.limits.size(), 3u);
  EXPECT_EQ(merged[0].plot.limits[0].label, "wanted");
  EXPECT_EQ(merged[0].plot.limits[1].label, "bound \u2013 a");
  EXPECT_EQ(merged[0].plot.limits[2].label, "bound \u2013 b");
}

TEST(PlotMergeTest, RunsOfOneSeriesAreNamedByTheirFile) {
  const auto merged =
      MergePlots({{"a", {PlotOf("Rows", {"x"}, 5)}}, {"b", {PlotOf("Rows", {"x"}, 5)}}});
  EXPECT_EQ(SeriesNames(merged[0]), (Names{"a", "b"}));
  EXPECT_NE(merged[0].styles[0].colour, merged[0].styles[1].colour);
}

TEST(PlotMergeTest, OtherUnitsOrTitlesStayApart) {
  Plot seconds = PlotOf("Rows", {"x"}, 5);
  seconds.y.unit = "s";
  const auto merged = MergePlots(
      {{"a", {PlotOf("Rows", {"x"}, 5)}}, {"b", {seconds, PlotOf("More rows", {"x"}, 5)}}});
  EXPECT_EQ(merged.size(), 3u);
}

TEST(PlotMergeTest, CategoriesAreMatchedByName) {
  Plot first = PlotOf("Rows", {"x"}, 5);
  first.x.categories = {"read", "crc"};
  first.series[0].points = {{0, 1}, {1, 2}};
  Plot second = first;
  second.x.categories = {"crc", "touch"};
  const auto merged = MergePlots({{"a", {first}}, {"b", {second}}});
  ASSERT_EQ(merged.size(), 1u);
  EXPECT_EQ(merged[0].plot.x.categories, (Names{"read", "crc", "touch"}));
  EXPECT_EQ(merged[0].plot.series[1].points[0].x, 1);
  EXPECT_EQ(merged[0].plot.series[1].points[1].x, 2);
}

}  // namespace
}  // namespace engram::bench
