// The one writer of benchmark reports: what was asked, on which machine, and what came out.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"

namespace engram::bench {

// The machine, the software and how busy it was, as JSON: hostname, kernel, cpu_model, cpus,
// memory_bytes, load_average_1m, ucx_version, git_commit, build_type, compiler, sanitizer,
// time_utc.
[[nodiscard]] nlohmann::json DescribeEnvironment();

// The layout (docs/formats/bench_report.md): {"benchmark", "seed", "settings", "environment"} and
// the results as further members of the same object. Thread-compatible.
class Report {
 public:
  // Takes the environment's description now, before the measurement.
  Report(std::string benchmark, uint64_t seed);

  // How the measurement was set up, such as repetitions or sizes.
  void AddSetting(const std::string& key, nlohmann::json value);
  // A result; the keys that the layout itself uses are refused (a programmer error).
  void AddResult(const std::string& key, nlohmann::json value);

  [[nodiscard]] const nlohmann::json& contents() const { return json_; }

  // Writes it to `file`, whole or not at all. An empty name writes nothing.
  // ERRORS: kIo naming the file.
  [[nodiscard]] Status Write(const std::filesystem::path& file) const;

 private:
  nlohmann::json json_;
};

}  // namespace engram::bench
