#include "bench/report_file.h"

#include <limits>
#include <utility>

#include "bench/json_fields.h"
#include "bench/json_file.h"

namespace engram::bench {
namespace {

using nlohmann::json;

Result<ReportEnvironment> ParseEnvironment(const json& report) {
  const json& object = report.at("environment");
  ReportEnvironment out;
  for (const auto& [key, text] : {std::pair{"hostname", &out.hostname},
                                  {"cpu_model", &out.cpu_model},
                                  {"ucx_version", &out.ucx_version},
                                  {"tcp_congestion_control", &out.tcp_congestion_control},
                                  {"git_commit", &out.git_commit},
                                  {"build_type", &out.build_type},
                                  {"compiler", &out.compiler},
                                  {"sanitizer", &out.sanitizer},
                                  {"time_utc", &out.time_utc}}) {
    ENGRAM_ASSIGN_OR_RETURN(*text, ReadText(object, key, ""));
  }
  for (const auto& [key, number] : {std::pair{"cpus", &out.cpus},
                                    {"memory_bytes", &out.memory_bytes},
                                    {"load_average_1m", &out.load_average_1m}}) {
    const auto value = ReadNumber(object.contains(key) ? object.at(key) : json());
    if (!value.has_value()) return Error(value.error().WithContext(key));
    *number = *value;
  }
  // The writer's word for "unknown".
  if (out.load_average_1m < 0) out.load_average_1m = std::numeric_limits<double>::quiet_NaN();
  return out;
}

// Reads into `figures` each of the array `key`; an error also names the figure's title.
template <typename Figure>
Status ParseFigures(const json& report, const char* key, Result<Figure> (*parse)(const json&),
                    std::vector<Figure>* figures) {
  return ReadEach(report, key, kReportFiguresMax, [&](const json& item) -> Status {
    auto figure = parse(item);
    if (figure.has_value()) {
      figures->push_back(*std::move(figure));
      return {};
    }
    const bool titled = item.is_object() && item.contains("title") && item.at("title").is_string();
    return titled ? figure.error().WithContext("\"" + item.at("title").get<std::string>() + "\"")
                  : figure.error();
  });
}

}  // namespace

Result<ReportFile> ParseReport(std::string_view text) {
  ENGRAM_ASSIGN_OR_RETURN(const json report, ParseJson(text));
  if (!report.is_object() || !report.contains("benchmark") || !report.contains("environment") ||
      !report.at("environment").is_object()) {
    return Malformed(
        "is JSON, but no report of engram-bench: that is an object with \"benchmark\" and "
        "\"environment\"");
  }
  ReportFile out;
  ENGRAM_ASSIGN_OR_RETURN(out.benchmark, ReadText(report, "benchmark", std::nullopt));
  ENGRAM_ASSIGN_OR_RETURN(out.title, ReadText(report, "title", out.benchmark));
  ENGRAM_TRY(ReadEach(report, "command", 10'000, [&](const json& argument) -> Status {
    if (!argument.is_string()) return {StatusCode::kMalformed, "is not a text"};
    out.command.push_back(argument.get<std::string>());
    return {};
  }));
  auto environment = ParseEnvironment(report);
  if (!environment.has_value()) return Error(environment.error().WithContext("environment"));
  out.environment = *std::move(environment);
  ENGRAM_TRY(ParseFigures(report, "tables", ParseTable, &out.tables));
  ENGRAM_TRY(ParseFigures(report, "plots", ParsePlot, &out.plots));
  return out;
}

Result<ReportFile> ReadReportFile(const std::filesystem::path& file) {
  auto text = ReadJsonBytes(file);
  if (!text.has_value()) return Error(text.error().WithContext(file.string()));
  auto report = ParseReport(*text);
  if (!report.has_value()) return Error(report.error().WithContext(file.string()));
  report->file = file;
  return report;
}

}  // namespace engram::bench
