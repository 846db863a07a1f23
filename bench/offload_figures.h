// What `engram-bench offload` shows of comparisons.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "bench/offload_run.h"

namespace engram::bench {

// Wanted of memory nodes / in process.
inline constexpr double kOffloadRatioWanted = 0.99;

// By setting, shape and way, then by concurrency.
void SortRuns(std::vector<OffloadRun>* runs);

// Speed, latencies, Engram layers, rows and tokens, what ran. Precondition: !runs.empty(), of all
// three functions.
[[nodiscard]] std::vector<Table> OffloadTables(const std::vector<OffloadRun>& runs);
// For each setting and shape: the ratio, tokens per second and the time of a token over the
// concurrency. Precondition: sorted.
[[nodiscard]] std::vector<Plot> OffloadPlots(const std::vector<OffloadRun>& runs);
// For programs: an object for each run; "runs" of docs/formats/bench_report.md.
[[nodiscard]] nlohmann::json ToJson(const std::vector<OffloadRun>& runs);

}  // namespace engram::bench
