// Tables on the memory nodes against the same tables in process, and in GPU memory if so asked, in
// interleaved pairs.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
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

struct CompareSides {
  CompareSide remote;
  CompareSide local;
  CompareSide off;
  std::optional<CompareSide> device;  // tables in GPU memory
};

struct CompareOptions {
  uint32_t pairs = 11;
  uint32_t off_runs = 3;  // spread over the pairs
  BatchRunOptions batch;
};

struct CompareResult {
  std::vector<BatchRun> remote;  // [pairs]
  std::vector<BatchRun> local;   // [pairs]
  std::vector<BatchRun> device;  // [pairs], or none
  std::vector<BatchRun> off;     // [off_runs]
  RowSourceStats remote_rows;    // over all remote runs, without the warm-up
  RowSourceStats local_rows;
  RowSourceStats device_rows;

  // [pairs] tokens per second, remote / local and remote / device.
  [[nodiscard]] std::vector<double> ratios() const;
  [[nodiscard]] std::vector<double> ratios_device() const;
  [[nodiscard]] bool identical_tokens() const;  // in every run with rows
  [[nodiscard]] uint32_t off_requests_differing() const;
};

// Runs each side once to warm up, then the pairs: remote, local, device in even pairs, the other
// way round in odd ones, so that a drift of the machine's speed meets all alike.
//   progress  called after each run with a line for a person; may be empty
// ERRORS: the first request that failed, with the side it ran on.
[[nodiscard]] Result<CompareResult> Compare(
    const CompareSides& sides, std::span<const std::vector<TokenId>> prompts,
    const CompareOptions& options, const std::function<void(const std::string&)>& progress);

// All figures of a comparison. tok_s_* are medians over the runs of generated tokens per second of
// the whole run, prefill included; ratio_median is the median of the pairs' own ratios. Keys with
// `device` are there where that side is.
[[nodiscard]] nlohmann::json CompareReport(const CompareResult& result,
                                           std::span<const int32_t> layer_ids);
[[nodiscard]] std::string CompareTable(const CompareResult& result,
                                       std::span<const int32_t> layer_ids);

}  // namespace engram
