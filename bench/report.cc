#include "bench/report.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <system_error>
#include <thread>
#include <utility>

#include <dlfcn.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "bench/git_commit.h"
#include "engram/base/check.h"

namespace engram::bench {
namespace {

using nlohmann::json;

// "EPYC 9V74" of the line "model name : EPYC 9V74".
std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  std::string line;
  while (std::getline(file, line)) {
    if (line.rfind("model name", 0) != 0) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

// Asked of the library that is installed, so that benchmarks without UCX need not link it.
std::string UcxVersion() {
  void* library = dlopen("libucp.so.0", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return "not installed";
  using VersionString = const char* (*)();
  const auto version = reinterpret_cast<VersionString>(dlsym(library, "ucp_get_version_string"));
  return version == nullptr ? "unknown" : version();
}

std::string TimeUtc() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text{};
  std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text.data();
}

}  // namespace

json DescribeEnvironment() {
  utsname system{};
  uname(&system);
  double load = -1;
  if (getloadavg(&load, 1) != 1) load = -1;
  return {{"hostname", system.nodename},
          {"kernel", std::string(system.sysname) + " " + system.release + " " + system.machine},
          {"cpu_model", CpuModel()},
          {"cpus", std::thread::hardware_concurrency()},
          {"memory_bytes", static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) *
                               static_cast<uint64_t>(sysconf(_SC_PAGE_SIZE))},
          {"load_average_1m", load},
          {"ucx_version", UcxVersion()},
          {"git_commit", ENGRAM_GIT_COMMIT},
          {"build_type", ENGRAM_BUILD_TYPE},
          {"compiler", ENGRAM_COMPILER},
          {"sanitizer", ENGRAM_BUILD_SANITIZER},
          {"time_utc", TimeUtc()}};
}

Report::Report(std::string benchmark, uint64_t seed)
    : json_({{"benchmark", std::move(benchmark)},
             {"seed", seed},
             {"settings", json::object()},
             {"environment", DescribeEnvironment()}}) {}

void Report::AddSetting(const std::string& key, json value) {
  json_["settings"][key] = std::move(value);
}

void Report::AddResult(const std::string& key, json value) {
  ENGRAM_CHECK(key != "benchmark" && key != "seed" && key != "settings" && key != "environment");
  json_[key] = std::move(value);
}

Status Report::Write(const std::filesystem::path& file) const {
  if (file.empty()) return Status();
  const std::filesystem::path partial = file.string() + ".partial";
  {
    std::ofstream out(partial);
    out << json_.dump(1) << '\n';
    out.close();
    if (!out) {
      return Status(StatusCode::kIo,
                    "cannot write the report " + partial.string() + ": " + std::strerror(errno));
    }
  }
  std::error_code error;
  std::filesystem::rename(partial, file, error);
  if (error) {
    return Status(StatusCode::kIo,
                  "cannot write the report " + file.string() + ": " + error.message());
  }
  return Status();
}

}  // namespace engram::bench
