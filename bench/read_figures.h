// What engram-bench read shows: of each batch size the rates, latencies, costs and stages.
#pragma once

#include <cstdint>
#include <vector>

#include <nlohmann/json.hpp>

#include "bench/bare_rows.h"
#include "bench/figures.h"
#include "bench/latency_histogram.h"
#include "bench/repetitions.h"
#include "bench/stage_sampler.h"

namespace engram::bench {

// The middle repetition and what varied between them, of one batch size.
struct ReadFigures {
  uint32_t rows = 0;
  Spread stack_rows_s;
  LatencyHistogram stack_took;
  // False where a cluster is measured: its nodes have no floor, and their CPU time is not known.
  bool own_nodes = true;
  Spread floor_rows_s;
  Spread local_rows_s;
  Spread ratio;  // stack over floor, repetition by repetition
  LatencyHistogram floor_took;
  BareMessages floor_messages;
  double node_cpu_us_per_row = 0;
  double client_cpu_us_per_row = 0;
  double from_cache = 0;         // share of the rows asked
  double deduped = 0;            // likewise
  StageCounts stages{};          // of the stack's I/O threads; zeros without --profile
  double thread_us_per_row = 0;  // time of all I/O threads, whatever they did
};

[[nodiscard]] nlohmann::json ToJson(const ReadFigures& figures);
// `profile`: the stages too. Precondition: figures of one kind, own nodes or a cluster; not empty.
[[nodiscard]] std::vector<Table> ReadTables(const std::vector<ReadFigures>& figures, bool profile);
[[nodiscard]] Plot RatePlot(const std::vector<ReadFigures>& figures);
[[nodiscard]] Plot LatencyPlot(const ReadFigures& figures);

}  // namespace engram::bench
