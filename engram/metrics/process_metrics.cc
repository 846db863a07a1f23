#include "engram/metrics/process_metrics.h"

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

#include <sys/resource.h>
#include <unistd.h>

namespace engram {
namespace {

// Of /proc/self/stat (proc(5)), in its units.
struct ProcessStat {
  uint64_t user_ticks = 0;
  uint64_t system_ticks = 0;
  uint64_t start_ticks = 0;  // since boot
  uint64_t virtual_bytes = 0;
  uint64_t resident_pages = 0;
};

bool ReadStat(ProcessStat* stat) {
  std::ifstream file("/proc/self/stat");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const size_t name_end = text.rfind(')');  // the name may hold anything, even a bracket
  if (name_end == std::string::npos) return false;
  std::istringstream fields(text.substr(name_end + 1));
  std::string skipped;
  // After the name come fields 3 and on.
  for (int field = 3; field < 14; ++field) fields >> skipped;
  fields >> stat->user_ticks >> stat->system_ticks;
  for (int field = 16; field < 22; ++field) fields >> skipped;
  fields >> stat->start_ticks >> stat->virtual_bytes >> stat->resident_pages;
  return !fields.fail();
}

// Seconds since 1970; 0 = not told.
uint64_t BootTime() {
  std::ifstream file("/proc/stat");
  for (std::string line; std::getline(file, line);) {
    uint64_t seconds = 0;
    if (std::istringstream(line.starts_with("btime ") ? line.substr(6) : "") >> seconds) {
      return seconds;
    }
  }
  return 0;
}

}  // namespace

void WriteProcessMetrics(FamilyWriter* out) {
  if (ProcessStat stat; ReadStat(&stat)) {
    constexpr uint64_t kSecondNs = 1'000'000'000;
    const auto ticks = static_cast<uint64_t>(sysconf(_SC_CLK_TCK));
    out->TimeCounter("process_cpu_seconds_total", "CPU time of this process.",
                     (stat.user_ticks + stat.system_ticks) * (kSecondNs / ticks));
    out->Gauge("process_resident_memory_bytes", "Memory of this process that is in RAM.",
               stat.resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE)));
    out->Gauge("process_virtual_memory_bytes", "Address space of this process.",
               stat.virtual_bytes);
    if (const uint64_t boot = BootTime(); boot != 0) {
      out->Gauge("process_start_time_seconds", "When this process started, since 1970.",
                 static_cast<double>(boot) +
                     static_cast<double>(stat.start_ticks) / static_cast<double>(ticks));
    }
  }
  std::error_code error;
  uint64_t open = 0;
  std::filesystem::directory_iterator descriptor("/proc/self/fd", error);
  for (; !error && descriptor != end(descriptor); descriptor.increment(error)) ++open;
  if (!error) {
    // The iterator's own is among them.
    out->Gauge("process_open_fds", "Open file descriptors.", open - 1);
  }
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    out->Gauge("process_max_fds", "Most open file descriptors allowed.", limit.rlim_cur);
  }
}

}  // namespace engram
