#include "bench/report.h"

#include <algorithm>
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
#include "engram/base/cpu_model.h"
#include "engram/base/tcp_congestion.h"

namespace engram::bench {
namespace {

using nlohmann::json;

constexpr std::array<std::string_view, 8> kLayoutKeys = {
    "benchmark", "title", "command", "seed", "settings", "environment", "tables", "plots"};

// Asked of the library that is installed, so that benchmarks without UCX need not link it.
std::string UcxVersion() {
  void* library = dlopen("libucp.so.0", RTLD_LAZY | RTLD_LOCAL);
  if (library == nullptr) return "not installed";
  using VersionString = const char* (*)();
  const auto version = reinterpret_cast<VersionString>(dlsym(library, "ucp_get_version_string"));
  return version == nullptr ? "unknown" : version();
}

// The arguments that this process was started with.
json Arguments() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  json arguments = json::array();
  for (std::string argument; std::getline(file, argument, '\0');) arguments.push_back(argument);
  return arguments;
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

Status WriteWholeFile(const std::filesystem::path& file, std::string_view text) {
  const std::filesystem::path partial = file.string() + ".partial";
  {
    std::ofstream out(partial, std::ios::binary);
    out << text;
    out.close();
    if (!out) {
      return {StatusCode::kIo, "cannot write " + partial.string() + ": " + std::strerror(errno)};
    }
  }
  std::error_code error;
  std::filesystem::rename(partial, file, error);
  if (error) return {StatusCode::kIo, "cannot write " + file.string() + ": " + error.message()};
  return {};
}

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
          {"tcp_congestion_control", TcpCongestionControl()},
          {"git_commit", ENGRAM_GIT_COMMIT},
          {"build_type", ENGRAM_BUILD_TYPE},
          {"compiler", ENGRAM_COMPILER},
          {"sanitizer", ENGRAM_BUILD_SANITIZER},
          {"time_utc", TimeUtc()}};
}

Report::Report(std::string benchmark, uint64_t seed, std::string title)
    : json_({{"title", title.empty() ? benchmark : std::move(title)},
             {"benchmark", std::move(benchmark)},
             {"command", Arguments()},
             {"seed", seed},
             {"settings", json::object()},
             {"environment", DescribeEnvironment()},
             {"tables", json::array()},
             {"plots", json::array()}}) {}

void Report::SetLoadAverage(std::optional<double> load_average_1m) {
  json_["environment"]["load_average_1m"] = load_average_1m.value_or(-1);
}

void Report::AddSetting(const std::string& key, json value) {
  json_["settings"][key] = std::move(value);
}

void Report::AddResult(const std::string& key, json value) {
  ENGRAM_CHECK(std::find(kLayoutKeys.begin(), kLayoutKeys.end(), key) == kLayoutKeys.end());
  json_[key] = std::move(value);
}

void Report::AddTable(const Table& table) { json_["tables"].push_back(ToJson(table)); }

void Report::AddPlot(const Plot& plot) { json_["plots"].push_back(ToJson(plot)); }

Status Report::Write(const std::filesystem::path& file) const {
  if (file.empty()) return Status();
  // Arguments and host names may be no UTF-8.
  return WriteWholeFile(file, json_.dump(1, ' ', false, json::error_handler_t::replace) + '\n')
      .WithContext("the report");
}

}  // namespace engram::bench
