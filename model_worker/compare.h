// Tables on the memory nodes against the same tables in process, in interleaved pairs.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engram/base/status.h"
#include "model_worker/batch_run.h"

namespace engram {

// One side: an idle engine that this thread drives. All sides share one backend, one at a time.
struct CompareSide {
  Engine* engine = nullptr;
  RowSource* rows = nullptr;  // null: Engram off
};

struct CompareOptions {
  uint32_t pairs = 11;
  uint32_t off_runs = 3;  // spread over the pairs
  BatchRunOptions batch;
};

struct CompareResult {
  std::vector<BatchRun> remote;  // [pairs]
  std::vector<BatchRun> local;   // [pairs]
  std::vector<BatchRun> off;     // [off_runs]
  RowSourceStats remote_rows;    // over all remote runs, without the warm-up
  RowSourceStats local_rows;

  [[nodiscard]] std::vector<double> ratios() const;  // [pairs] remote / local, tokens per second
  [[nodiscard]] bool identical_tokens() const;       // in every remote and local run
  [[nodiscard]] uint32_t off_requests_differing() const;
};

// Runs each side once to warm up, then the pairs: remote first in even pairs, local first in odd
// ones, so that a drift of the machine's speed meets both alike.
//   progress  called after each run with a line for a person; may be empty
// ERRORS: the first request that failed, with the side it ran on.
[[nodiscard]] Result<CompareResult> Compare(
    const CompareSide& remote, const CompareSide& local, const CompareSide& off,
    std::span<const std::vector<TokenId>> prompts, const CompareOptions& options,
    const std::function<void(const std::string&)>& progress);

// All figures of a comparison. tok_s_* are medians over the runs of generated tokens per second of
// the whole run, prefill included; ratio_median is the median of the pairs' own ratios.
[[nodiscard]] nlohmann::json CompareReport(const CompareResult& result,
                                           std::span<const int32_t> layer_ids);
[[nodiscard]] std::string CompareTable(const CompareResult& result,
                                       std::span<const int32_t> layer_ids);

}  // namespace engram
