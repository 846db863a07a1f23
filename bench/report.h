// The one writer of benchmark reports: what was asked, on which machine, and what came out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "engram/base/status.h"

namespace engram::bench {

// The machine, the software and how busy it was, as JSON: hostname, kernel, cpu_model, cpus,
// memory_bytes, load_average_1m, ucx_version, git_commit, build_type, compiler, sanitizer,
// time_utc.
[[nodiscard]] nlohmann::json DescribeEnvironment();

// Writes `text` to `file`, whole or not at all.
// ERRORS: kIo naming the file.
[[nodiscard]] Status WriteWholeFile(const std::filesystem::path& file, std::string_view text);

// The layout (docs/formats/bench_report.md): {"benchmark", "title", "command", "seed", "settings",
// "environment", "tables", "plots"} and the results as further members of the same object.
// Thread-compatible.
//
//   Report report("load", options.seed, "How fast does a memory node load its slots?");
//   Series rates{.name = "load"};
//   rates.Add(threads, SpreadOf(bytes_s));
//   report.AddPlot({.title = "Loading from page cache",
//                   .x = {"threads", "threads"},
//                   .y = {"row bytes", "B/s"},
//                   .series = {rates},
//                   .limits = {{"wanted", 500e6}}});
class Report {
 public:
  // Takes the environment's description now, before the measurement, and this process's arguments.
  //   title  the question in words; empty: `benchmark`
  Report(std::string benchmark, uint64_t seed, std::string title = "");

  // Where others measured before this process began: the load average of before that; nullopt:
  // unknown.
  void SetLoadAverage(std::optional<double> load_average_1m);
  // How the measurement was set up, such as repetitions or sizes.
  void AddSetting(const std::string& key, nlohmann::json value);
  // A result; the keys that the layout itself uses are refused (a programmer error).
  void AddResult(const std::string& key, nlohmann::json value);
  // For people; each is shown under its title, in the order of adding.
  void AddTable(const Table& table);
  void AddPlot(const Plot& plot);

  [[nodiscard]] const nlohmann::json& contents() const { return json_; }

  // Writes it to `file`, whole or not at all. An empty name writes nothing.
  // ERRORS: kIo naming the file.
  [[nodiscard]] Status Write(const std::filesystem::path& file) const;

 private:
  nlohmann::json json_;
};

}  // namespace engram::bench
