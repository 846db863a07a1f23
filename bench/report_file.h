// A report as read back from its file.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "bench/figures.h"

namespace engram::bench {

// Where and how it was measured. What the file does not say is empty, or NaN.
struct ReportEnvironment {
  std::string hostname;
  std::string cpu_model;
  std::string ucx_version;
  std::string tcp_congestion_control;
  std::string git_commit;
  std::string build_type;
  std::string compiler;
  std::string sanitizer;
  std::string time_utc;
  double cpus = 0;
  double memory_bytes = 0;
  double load_average_1m = 0;  // before the measurement
};

struct ReportFile {
  std::filesystem::path file;
  std::string benchmark;
  std::string title;
  std::vector<std::string> command;
  ReportEnvironment environment;
  std::vector<Table> tables;
  std::vector<Plot> plots;
};

inline constexpr size_t kReportFiguresMax = 100;  // tables; as many plots

// What a file has; `file` stays empty.
// ERRORS: kMalformed: no report of engram-bench, or a damaged one; kResourceExhausted: more than
// the bounds of tables and plots. Both say what is wrong where.
[[nodiscard]] Result<ReportFile> ParseReport(std::string_view text);

// ERRORS: kNotFound or kIo: no such file, or it cannot be read; also those of
// ParseReport, and kResourceExhausted: too many bytes. All name the file.
[[nodiscard]] Result<ReportFile> ReadReportFile(const std::filesystem::path& file);

}  // namespace engram::bench
