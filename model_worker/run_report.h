// What a run says about itself, as JSON and as a table.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "client/row_source.h"
#include "engram/base/status.h"
#include "model_worker/batch_run.h"

namespace engram {

// A row source's counters over some runs of `wall_s` seconds together: rows_*, stall_percent,
// row_path_cpu_us_per_token and layers.<id>.{prefetch_p50_us, prefetch_p99_us, window_p50_us,
// hidden_fraction, batches, stall_ms}.
//   layer_ids  the config's own numbers, in the order of stats.layers
[[nodiscard]] nlohmann::json RowReport(const RowSourceStats& stats,
                                       std::span<const int32_t> layer_ids, double wall_s);
// Share of `wall_s` spent waiting for rows, in per cent.
[[nodiscard]] double StallPercent(const RowSourceStats& stats, double wall_s);

// One line a layer and the rows' counts, for a person.
[[nodiscard]] std::string RowTable(const RowSourceStats& stats, std::span<const int32_t> layer_ids,
                                   double wall_s);

// Of all requests of the runs: ttft_p50_ms, ttft_p99_ms (time to first token, from Submit: requests
// that wait for a slot wait longer) and tpot_p50_ms, tpot_p99_ms (time of each token after it, a
// request's mean). Requests without a first or second token are left out.
[[nodiscard]] nlohmann::json LatencyReport(std::span<const BatchRun> runs);

// "12.34 ms", "56.7 us".
[[nodiscard]] std::string Microseconds(double us);

// Writes `text` to `file`, whole or not at all. ERRORS: kIo naming the file.
[[nodiscard]] Status WriteFile(const std::string& file, const std::string& text);

}  // namespace engram
