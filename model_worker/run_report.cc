#include "model_worker/run_report.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "model_worker/statistics.h"

namespace engram {
namespace {

double Share(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

template <typename... Args>
std::string Format(const char* format, Args... args) {
  char buffer[256];
  std::snprintf(buffer, sizeof(buffer), format, args...);
  return buffer;
}

}  // namespace

double StallPercent(const RowSourceStats& stats, double wall_s) {
  uint64_t stall_ns = 0;
  for (const auto& layer : stats.layers) stall_ns += layer.stall_ns;
  return wall_s > 0.0 ? static_cast<double>(stall_ns) * 1e-7 / wall_s : 0.0;
}

nlohmann::json RowReport(const RowSourceStats& stats, std::span<const int32_t> layer_ids,
                         double wall_s) {
  ENGRAM_CHECK(stats.layers.size() == layer_ids.size());
  nlohmann::json report = {
      {"batches", stats.batches},
      {"batch_tokens", stats.tokens},
      {"rows_asked", stats.rows_asked},
      {"rows_unique", stats.rows_unique},
      {"rows_from_cache", stats.rows_from_cache},
      {"rows_read", stats.rows_read},
      {"rows_landed", stats.rows_landed},
      {"rows_verified", stats.rows_verified},
      {"rows_wrong", stats.rows_wrong},
      {"rows_failed", stats.rows_failed},
      {"reads_retried", stats.reads_retried},
      {"reads_hedged", stats.reads_hedged},
      {"hedges_won", stats.hedges_won},
      {"stall_percent", StallPercent(stats, wall_s)},
      {"row_path_cpu_us_per_token", 1e-3 * Share(stats.row_path_cpu_ns, stats.tokens)}};
  nlohmann::json layers = nlohmann::json::object();
  for (size_t i = 0; i < layer_ids.size(); ++i) {
    const RowSourceStats::Layer& layer = stats.layers[i];
    layers[std::to_string(layer_ids[i])] = {
        {"prefetch_p50_us", Percentile(layer.prefetch_us, 0.50)},
        {"prefetch_p99_us", Percentile(layer.prefetch_us, 0.99)},
        {"window_p50_us", Percentile(layer.window_us, 0.50)},
        {"hidden_fraction", Share(layer.batches_in_time, layer.batches)},
        {"batches", layer.batches},
        {"stall_ms", static_cast<double>(layer.stall_ns) * 1e-6}};
  }
  report["layers"] = std::move(layers);
  return report;
}

nlohmann::json LatencyReport(std::span<const BatchRun> runs) {
  std::vector<double> ttft_ms;
  std::vector<double> tpot_ms;
  for (const BatchRun& run : runs) {
    for (const RequestTimes& times : run.times) {
      if (times.tokens >= 1) ttft_ms.push_back(1e3 * times.ttft_s());
      if (times.tokens >= 2) tpot_ms.push_back(1e3 * times.tpot_s());
    }
  }
  return {{"ttft_p50_ms", Percentile(ttft_ms, 0.50)},
          {"ttft_p99_ms", Percentile(ttft_ms, 0.99)},
          {"tpot_p50_ms", Percentile(tpot_ms, 0.50)},
          {"tpot_p99_ms", Percentile(tpot_ms, 0.99)}};
}

std::string Microseconds(double us) {
  return us >= 1000.0 ? Format("%.2f ms", us / 1000.0) : Format("%.1f us", us);
}

std::string RowTable(const RowSourceStats& stats, std::span<const int32_t> layer_ids,
                     double wall_s) {
  ENGRAM_CHECK(stats.layers.size() == layer_ids.size());
  std::string table = Format("  %-6s %12s %12s %12s %10s\n", "layer", "prefetch p50",
                             "prefetch p99", "window p50", "in time");
  for (size_t i = 0; i < layer_ids.size(); ++i) {
    const RowSourceStats::Layer& layer = stats.layers[i];
    table += Format("  %-6d %12s %12s %12s %8.2f %%\n", layer_ids[i],
                    Microseconds(Percentile(layer.prefetch_us, 0.50)).c_str(),
                    Microseconds(Percentile(layer.prefetch_us, 0.99)).c_str(),
                    Microseconds(Percentile(layer.window_us, 0.50)).c_str(),
                    100.0 * Share(layer.batches_in_time, layer.batches));
  }
  const auto count = [](uint64_t n) { return static_cast<unsigned long long>(n); };
  table += Format("  rows: %llu asked, %llu after dedupe, %llu from cache, %llu read\n",
                  count(stats.rows_asked), count(stats.rows_unique), count(stats.rows_from_cache),
                  count(stats.rows_read));
  table +=
      Format("  rows: %llu verified, %llu wrong, %llu failed; %llu reads retried, %llu hedged\n",
             count(stats.rows_verified), count(stats.rows_wrong), count(stats.rows_failed),
             count(stats.reads_retried), count(stats.reads_hedged));
  if (stats.rows_landed != 0) {
    table += Format("  rows: %llu put into the GPU's memory by network cards\n",
                    count(stats.rows_landed));
  }
  table += Format("  stalled on rows %.3f %% of the time; row path %.2f us of CPU a token\n",
                  StallPercent(stats, wall_s), 1e-3 * Share(stats.row_path_cpu_ns, stats.tokens));
  return table;
}

Status WriteFile(const std::string& file, const std::string& text) {
  const std::string partial = file + ".partial";
  std::ofstream out(partial, std::ios::binary | std::ios::trunc);
  out << text;
  out.close();
  if (!out || std::rename(partial.c_str(), file.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(partial.c_str());
    return {StatusCode::kIo, "cannot write " + file + ": " + reason};
  }
  return {};
}

}  // namespace engram
