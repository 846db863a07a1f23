// What `engram-bench offload` shows of comparisons.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "bench/offload_run.h"

namespace engram::bench {

// Wanted of memory nodes / in process.
inline constexpr double kOffloadRatioWanted = 0.99;
// Of memory nodes / Engram off.
inline constexpr double kOffloadRatioOfOffWanted = 0.98;

// What these have is as ReadOffloadRuns gives it.

// Speed, latencies, Engram layers, rows and tokens, what ran.
[[nodiscard]] std::vector<Table> OffloadTables(const std::vector<OffloadRun>& runs);
// For each setting and shape, over the concurrency: memory nodes / in process, each side / Engram
// off, tokens per second, the time of a token.
[[nodiscard]] std::vector<Plot> OffloadPlots(const std::vector<OffloadRun>& runs);
// For programs: an object for each run; "runs" of docs/formats/bench_report.md.
[[nodiscard]] nlohmann::json ToJson(const std::vector<OffloadRun>& runs);

}  // namespace engram::bench
