// What `engram-model-worker compare --json` writes of made-up runs.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

#include "model_worker/compare.h"

namespace engram::bench {

struct MadeUpComparison {
  double concurrency = 1;
  size_t off_runs = 1;
};

// Three pairs of 4 generated tokens each: 2 tokens/s from memory nodes, 4 in process, 8 with Engram
// off; layers 2 and 14.
inline nlohmann::json ComparisonJson(const MadeUpComparison& made_up) {
  const auto run_of = [](double wall_s) {
    BatchRun run;
    run.results.resize(1);
    run.results[0].tokens = {1, 2, 3, 4};
    run.times = {{.first_token_s = wall_s / 4, .last_token_s = wall_s / 4 + 0.75, .tokens = 4}};
    run.wall_s = wall_s;
    run.prompt_tokens = 100;
    run.generated_tokens = 4;
    return run;
  };
  CompareResult result;
  result.remote = {run_of(2), run_of(2), run_of(2)};
  result.local = {run_of(1), run_of(0.8), run_of(1.6)};
  result.off = std::vector<BatchRun>(made_up.off_runs, run_of(0.5));
  for (RowSourceStats* rows : {&result.remote_rows, &result.local_rows}) {
    rows->layers.resize(2);
    for (RowSourceStats::Layer& layer : rows->layers) layer.batches = layer.batches_in_time = 4;
  }
  result.remote_rows.rows_verified = 48;
  RowSourceStats::Layer& late = result.remote_rows.layers[0];
  late.batches_in_time = 3;
  late.stall_ns = 10'000'000;
  late.prefetch_us = {10, 20, 30, 40};
  late.window_us = {100, 200, 300};

  nlohmann::json report = CompareReport(result, std::vector<int32_t>{2, 14});
  // What the command adds to it.
  report.update({{"model", "small"},
                 {"parameters_non_embedding", 20'220'864},
                 {"way", "gather"},
                 {"transport", "tcp"},
                 {"backend", "cpu"},
                 {"hardware", "NVIDIA H200"},
                 {"threads", 2},
                 {"io_threads", 1},
                 {"io_spin_us", 0},
                 {"cache_bytes", 0},
                 {"concurrency", made_up.concurrency}});
  return report;
}

// The same with tables in GPU memory at 8 tokens/s.
inline nlohmann::json WithDevice(nlohmann::json report) {
  for (const char* key : {"prefill_tok_s_", "decode_tok_s_", "latency_"}) {
    report[std::string(key) + "device"] = report[std::string(key) + "local"];
  }
  report["tok_s_device"] = 8;
  report["tok_s_device_runs"] = {8};
  report["ratio_median_device"] = 0.25;
  return report;
}

}  // namespace engram::bench
