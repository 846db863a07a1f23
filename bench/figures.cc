#include "bench/figures.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string_view>

#include "bench/json_fields.h"
#include "engram/base/check.h"

namespace engram::bench {
namespace {

using nlohmann::json;

// Names in JSON, in the order of the enums.
constexpr std::array<std::string_view, 3> kScaleNames = {"linear", "log2", "log10"};
constexpr std::array<std::string_view, 3> kKindNames = {"line", "bar", "cdf"};

json ToJson(const Axis& axis) {
  json out = {{"label", axis.label},
              {"unit", axis.unit},
              {"scale", kScaleNames.at(static_cast<size_t>(axis.scale))}};
  if (!axis.categories.empty()) out["categories"] = axis.categories;
  if (!axis.from_zero) out["from_zero"] = false;
  return out;
}

json ToJson(const Series& series) {
  json points = json::array();
  for (const Point& point : series.points) points.push_back(json::array({point.x, point.y}));
  json out = {{"name", series.name}, {"points", std::move(points)}};
  if (series.low_high.empty()) return out;
  json ranges = json::array();
  for (const Range& range : series.low_high) ranges.push_back(json::array({range.low, range.high}));
  out["low_high"] = std::move(ranges);
  return out;
}

template <typename Enum>
Result<Enum> ReadName(const json& object, const char* key,
                      const std::array<std::string_view, 3>& names) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string text, ReadText(object, key, std::string(names[0])));
  const auto found = std::find(names.begin(), names.end(), text);
  if (found == names.end()) {
    return Malformed(std::string(key) + " is \"" + text + "\", not " + std::string(names[0]) +
                     ", " + std::string(names[1]) + " or " + std::string(names[2]));
  }
  return static_cast<Enum>(found - names.begin());
}

Result<Axis> ParseAxis(const json& plot, const char* key) {
  if (!plot.contains(key) || !plot.at(key).is_object()) {
    return Malformed(std::string(key) + " is missing or not an object");
  }
  const json& object = plot.at(key);
  Axis axis;
  ENGRAM_ASSIGN_OR_RETURN(axis.label, ReadText(object, "label", std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(axis.unit, ReadText(object, "unit", ""));
  ENGRAM_ASSIGN_OR_RETURN(axis.scale, ReadName<Scale>(object, "scale", kScaleNames));
  ENGRAM_TRY(ReadEach(object, "categories", kCategoriesMax, [&](const json& name) -> Status {
    if (!name.is_string()) return {StatusCode::kMalformed, "is not a text"};
    axis.categories.push_back(name.get<std::string>());
    return {};
  }));
  const json from_zero = object.value("from_zero", json(true));
  if (!from_zero.is_boolean()) return Malformed("from_zero is neither true nor false");
  axis.from_zero = from_zero.get<bool>();
  return axis;
}

// [a, b], each a number or null
Result<std::array<double, 2>> ParsePair(const json& item) {
  if (!item.is_array() || item.size() != 2) return Malformed("is not [number, number]");
  std::array<double, 2> pair{};
  for (size_t i = 0; i < 2; ++i) {
    ENGRAM_ASSIGN_OR_RETURN(pair[i], ReadNumber(item[i]));
  }
  return pair;
}

Result<Series> ParseSeries(const json& object) {
  if (!object.is_object()) return Malformed("is not an object");
  Series series;
  ENGRAM_ASSIGN_OR_RETURN(series.name, ReadText(object, "name", std::nullopt));
  ENGRAM_TRY(ReadEach(object, "points", kSeriesPointsMax, [&](const json& item) -> Status {
    const auto pair = ParsePair(item);
    if (!pair.has_value()) return pair.error();
    series.points.push_back({pair->at(0), pair->at(1)});
    return {};
  }));
  ENGRAM_TRY(ReadEach(object, "low_high", kSeriesPointsMax, [&](const json& item) -> Status {
    const auto pair = ParsePair(item);
    if (!pair.has_value()) return pair.error();
    series.low_high.push_back({pair->at(0), pair->at(1)});
    return {};
  }));
  if (!series.low_high.empty() && series.low_high.size() != series.points.size()) {
    return Malformed("low_high has " + std::to_string(series.low_high.size()) + " items for " +
                     std::to_string(series.points.size()) + " points");
  }
  return series;
}

// What the kind of plot asks of its points.
Status CheckPoints(const Plot& plot, const Series& series) {
  for (size_t i = 0; i < series.points.size(); ++i) {
    const Point& point = series.points[i];
    const std::string at = "points[" + std::to_string(i) + "] ";
    if (plot.kind == PlotKind::kCdf) {
      const bool rises =
          i == 0 || (point.x >= series.points[i - 1].x && point.y >= series.points[i - 1].y);
      if (!(point.y >= 0 && point.y <= 1) || std::isnan(point.x) || !rises) {
        return {StatusCode::kMalformed, at + "of a cdf must rise in x, and in y from 0 to 1"};
      }
    }
    if (plot.kind == PlotKind::kBar && !plot.x.categories.empty()) {
      if (!(point.x >= 0 && point.x < static_cast<double>(plot.x.categories.size())) ||
          point.x != std::floor(point.x)) {
        return {StatusCode::kMalformed, at + "has an x that is not the number of a category"};
      }
    }
  }
  return {};
}

}  // namespace

Series CdfSeries(std::string name, std::vector<double> values) {
  ENGRAM_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  constexpr size_t kPlaces = 400;
  const size_t places = std::min(kPlaces, values.size());
  Series series;
  series.name = std::move(name);
  for (size_t i = 1; i <= places; ++i) {
    // The least and the most are always among them.
    const size_t at = places == 1 ? 0 : (i - 1) * (values.size() - 1) / (places - 1);
    series.Add(values[at], static_cast<double>(at + 1) / static_cast<double>(values.size()));
  }
  return series;
}

json ToJson(const Table& table) {
  json columns = json::array();
  for (const Column& column : table.columns) {
    columns.push_back({{"label", column.label}, {"unit", column.unit}});
  }
  json rows = json::array();
  for (const std::vector<Cell>& row : table.rows) {
    ENGRAM_CHECK(row.size() == table.columns.size());
    json cells = json::array();
    for (const Cell& cell : row) {
      if (const double* number = cell.number()) {
        cells.push_back(*number);
      } else {
        cells.push_back(std::get<std::string>(cell));
      }
    }
    rows.push_back(std::move(cells));
  }
  return {{"title", table.title}, {"columns", std::move(columns)}, {"rows", std::move(rows)}};
}

json ToJson(const Plot& plot) {
  json series = json::array();
  for (const Series& one : plot.series) {
    ENGRAM_CHECK(one.low_high.empty() || one.low_high.size() == one.points.size());
    series.push_back(ToJson(one));
  }
  json out = {{"title", plot.title},
              {"kind", kKindNames.at(static_cast<size_t>(plot.kind))},
              {"x", ToJson(plot.x)},
              {"y", ToJson(plot.y)},
              {"series", std::move(series)}};
  json limits = json::array();
  for (const Limit& limit : plot.limits) {
    limits.push_back({{"label", limit.label}, {"y", limit.y}});
  }
  if (!limits.empty()) out["limits"] = std::move(limits);
  return out;
}

Result<Table> ParseTable(const json& object) {
  if (!object.is_object()) return Malformed("is not an object");
  Table table;
  ENGRAM_ASSIGN_OR_RETURN(table.title, ReadText(object, "title", std::nullopt));
  ENGRAM_TRY(ReadEach(object, "columns", kTableColumnsMax, [&](const json& item) -> Status {
    if (!item.is_object()) return {StatusCode::kMalformed, "is not an object"};
    auto label = ReadText(item, "label", std::nullopt);
    if (!label.has_value()) return label.error();
    auto unit = ReadText(item, "unit", "");
    if (!unit.has_value()) return unit.error();
    table.columns.push_back({*std::move(label), *std::move(unit)});
    return {};
  }));
  ENGRAM_TRY(ReadEach(object, "rows", kTableRowsMax, [&](const json& item) -> Status {
    if (!item.is_array() || item.size() != table.columns.size()) {
      return {StatusCode::kMalformed, "is not an array of as many cells as there are columns"};
    }
    std::vector<Cell> row;
    for (const json& cell : item) {
      if (cell.is_string()) {
        row.emplace_back(cell.get<std::string>());
        continue;
      }
      const auto number = ReadNumber(cell);
      if (!number.has_value()) return number.error();
      row.emplace_back(*number);
    }
    table.rows.push_back(std::move(row));
    return {};
  }));
  return table;
}

Result<Plot> ParsePlot(const json& object) {
  if (!object.is_object()) return Malformed("is not an object");
  Plot plot;
  ENGRAM_ASSIGN_OR_RETURN(plot.title, ReadText(object, "title", std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(plot.kind, ReadName<PlotKind>(object, "kind", kKindNames));
  ENGRAM_ASSIGN_OR_RETURN(plot.x, ParseAxis(object, "x"));
  ENGRAM_ASSIGN_OR_RETURN(plot.y, ParseAxis(object, "y"));
  if (!plot.y.categories.empty() || (!plot.x.categories.empty() && plot.kind != PlotKind::kBar)) {
    return Malformed("only the x axis of bars has categories");
  }
  const auto read_series = [&](const json& item) -> Status {
    auto series = ParseSeries(item);
    if (!series.has_value()) return series.error();
    ENGRAM_RETURN_IF_ERROR(CheckPoints(plot, *series));
    plot.series.push_back(*std::move(series));
    return {};
  };
  ENGRAM_TRY(ReadEach(object, "series", kPlotSeriesMax, read_series));
  ENGRAM_TRY(ReadEach(object, "limits", kPlotLimitsMax, [&](const json& item) -> Status {
    if (!item.is_object()) return {StatusCode::kMalformed, "is not an object"};
    auto label = ReadText(item, "label", std::nullopt);
    if (!label.has_value()) return label.error();
    const auto y = ReadNumber(item.contains("y") ? item.at("y") : json());
    if (!y.has_value()) return y.error();
    plot.limits.push_back({*std::move(label), *y});
    return {};
  }));
  return plot;
}

}  // namespace engram::bench
