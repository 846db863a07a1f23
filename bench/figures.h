// What a report shows: tables and plots. Each question describes its own; `engram-bench report`
// draws any. The JSON layout is docs/formats/bench_report.md.
//
// Values are in the plain unit, without a prefix: "s", "B/s", "rows/s", "s/row", "tokens", "" for a
// ratio. What shows them chooses the prefix that fits (bench/number_text.h). NaN is "no value".
#pragma once

#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/repetitions.h"
#include "engram/base/status.h"

namespace engram::bench {

struct Column {
  std::string label;
  std::string unit;
};

// A text, or a number in its column's unit.
struct Cell : std::variant<std::string, double> {
  Cell(std::string text) : variant(std::move(text)) {}
  Cell(const char* text) : variant(std::string(text)) {}
  template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
  Cell(Number number) : variant(static_cast<double>(number)) {}

  // nullptr: it is a text.
  [[nodiscard]] const double* number() const { return std::get_if<double>(this); }
};

struct Table {
  std::string title;
  std::vector<Column> columns;
  std::vector<std::vector<Cell>> rows;  // each has a cell for each column
};

enum class Scale { kLinear, kLog2, kLog10 };

struct Axis {
  std::string label;
  std::string unit;
  Scale scale = Scale::kLinear;
  // Of the x axis of bars: names of x = 0, 1, ... Empty: the bars stand over their numbers.
  std::vector<std::string> categories;
  // Of the y axis of lines on a linear scale: false where small differences matter, such as of
  // ratios near one; then the axis is around the values and limits alone.
  bool from_zero = true;
};

struct Point {
  double x = 0;
  double y = 0;
};

struct Range {
  double low = 0;
  double high = 0;
};

struct Series {
  std::string name;
  std::vector<Point> points;
  std::vector<Range> low_high;  // how far y spread: none, or one for each point

  void Add(double x, double y) { points.push_back({x, y}); }
  // The median, and from the least to the most. Not to be mixed with the other.
  void Add(double x, const Spread& spread) {
    points.push_back({x, spread.median});
    low_high.push_back({spread.least, spread.most});
  }
};

// For plots of kind kCdf: what fraction of `values` is at most x, at up to 400 places.
// Precondition: !values.empty().
[[nodiscard]] Series CdfSeries(std::string name, std::vector<double> values);

// A level to judge by, such as a bound or a goal: a line across the plot.
struct Limit {
  std::string label;
  double y = 0;
};

enum class PlotKind {
  kLine,
  kBar,  // over zero, side by side where several series have the same x
  kCdf,  // steps; y is a fraction from 0 to 1, shown as per cent
};

// A value that a scale cannot show (NaN; on log scales also zero and less) is left out.
struct Plot {
  std::string title;
  PlotKind kind = PlotKind::kLine;
  Axis x;
  Axis y;
  std::vector<Series> series;
  std::vector<Limit> limits;
};

[[nodiscard]] nlohmann::json ToJson(const Table& table);
[[nodiscard]] nlohmann::json ToJson(const Plot& plot);

// The other way, from a file that may be anything.
// ERRORS: kMalformed naming the member and what is wrong with it; kResourceExhausted where there is
// more than the bounds below.
[[nodiscard]] Result<Table> ParseTable(const nlohmann::json& json);
[[nodiscard]] Result<Plot> ParsePlot(const nlohmann::json& json);

inline constexpr size_t kTableColumnsMax = 64;
inline constexpr size_t kTableRowsMax = 10'000;
inline constexpr size_t kPlotSeriesMax = 64;
inline constexpr size_t kPlotLimitsMax = 16;
inline constexpr size_t kSeriesPointsMax = 10'000;
inline constexpr size_t kCategoriesMax = 64;

}  // namespace engram::bench
