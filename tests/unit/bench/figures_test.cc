#include "bench/figures.h"

#include <cmath>

#include <gtest/gtest.h>

namespace engram::bench {
namespace {

using nlohmann::json;

Plot MadeUpPlot() {
  Series series{.name = "gather", .points = {}, .low_high = {}};
  series.Add(48, {2, 1, 3});
  series.Add(1536, {4, 3.5, 5});
  return {.title = "Rows",
          .kind = PlotKind::kLine,
          .x = {"batch", "rows", Scale::kLog2, {}},
          .y = {"rate", "rows/s", Scale::kLinear, {}, /*from_zero=*/false},
          .series = {series},
          .limits = {{"wanted", 3}}};
}

TEST(FiguresTest, PlotsComeBackFromJsonAsTheyWere) {
  const json written = ToJson(MadeUpPlot());
  EXPECT_EQ(written.at("x").at("scale"), "log2");
  EXPECT_EQ(written.at("series").at(0).at("low_high").at(1), json({3.5, 5.0}));
  const auto plot = ParsePlot(written);
  ASSERT_TRUE(plot.has_value()) << plot.error().ToString();
  EXPECT_EQ(ToJson(*plot), written);
}

TEST(FiguresTest, TablesComeBackFromJsonAndNoValueIsNull) {
  const Table table{.title = "Rows",
                    .columns = {{"way"}, {"rate", "rows/s"}},
                    .rows = {{"gather", 5}, {"mapped", std::nan("")}}};
  // As it is written and read: NaN has no place in JSON.
  const json written = json::parse(ToJson(table).dump());
  EXPECT_TRUE(written.at("rows").at(1).at(1).is_null());
  const auto parsed = ParseTable(written);
  ASSERT_TRUE(parsed.has_value()) << parsed.error().ToString();
  EXPECT_EQ(*parsed->rows[0][1].number(), 5);
  EXPECT_TRUE(std::isnan(*parsed->rows[1][1].number()));
}

// `change` spoils a good plot; the error must say `wanted`.
template <typename Change>
void ExpectRefused(const std::string& wanted, const Change& change,
                   StatusCode code = StatusCode::kMalformed) {
  json plot = ToJson(MadeUpPlot());
  change(plot);
  const auto parsed = ParsePlot(plot);
  ASSERT_FALSE(parsed.has_value()) << wanted;
  EXPECT_EQ(parsed.error().code(), code);
  EXPECT_NE(parsed.error().message().find(wanted), std::string::npos) << parsed.error().message();
}

TEST(FiguresTest, WrongPlotsAreRefusedNamingTheMember) {
  ExpectRefused("title is missing", [](json& plot) { plot.erase("title"); });
  ExpectRefused("x is missing", [](json& plot) { plot["x"] = 1; });
  ExpectRefused("scale is \"log3\"", [](json& plot) { plot["y"]["scale"] = "log3"; });
  ExpectRefused("from_zero is", [](json& plot) { plot["y"]["from_zero"] = 0; });
  ExpectRefused("kind is \"pie\"", [](json& plot) { plot["kind"] = "pie"; });
  ExpectRefused("series[0]: points[1]: is not [number, number]", [](json& plot) {
    plot["series"][0]["points"][1] = {1, 2, 3};
  });
  ExpectRefused("series[0]: points[0]: has something else", [](json& plot) {
    plot["series"][0]["points"][0] = {"a", 2};
  });
  ExpectRefused("beyond 1e30", [](json& plot) { plot["series"][0]["points"][0][1] = 1e31; });
  ExpectRefused("low_high has 1 items for 2 points",
                [](json& plot) { plot["series"][0]["low_high"].erase(0); });
  ExpectRefused("limits[0]", [](json& plot) { plot["limits"][0]["y"] = "much"; });
  ExpectRefused("must rise", [](json& plot) { plot["kind"] = "cdf"; });
  ExpectRefused("only the x axis of bars", [](json& plot) {
    plot["x"]["categories"] = {"one", "two"};
  });
  ExpectRefused("number of a category", [](json& plot) {
    plot["kind"] = "bar";
    plot["x"]["categories"] = {"one", "two"};
  });
  ExpectRefused(
      "series has 65 items; at most 64",
      [](json& plot) { plot["series"] = std::vector<json>(65, plot["series"][0]); },
      StatusCode::kResourceExhausted);
  EXPECT_FALSE(ParsePlot(json::array()).has_value());
}

TEST(FiguresTest, ACdfHasTheLeastAndTheMostAndFewPlaces) {
  std::vector<double> values;
  for (int i = 1000; i > 0; --i) values.push_back(i);
  const Series series = CdfSeries("latency", values);
  EXPECT_EQ(series.points.size(), 400u);
  EXPECT_EQ(series.points.front().x, 1);
  EXPECT_EQ(series.points.back().x, 1000);
  EXPECT_EQ(series.points.back().y, 1);
  EXPECT_EQ(CdfSeries("one", {7}).points.size(), 1u);
}

}  // namespace
}  // namespace engram::bench
