// One comparison of `engram-model-worker compare --json`, as read back: what bench/offload is
// about.
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"

namespace engram::bench {

// Where the rows come from.
enum class OffloadSide { kRemote, kInProcess, kDevice, kOff };
inline constexpr size_t kOffloadSideCount = 4;
// "memory nodes", "in process", "GPU memory", "Engram off".
[[nodiscard]] std::string OffloadSideName(OffloadSide side);

// Medians over a side's runs; rates are tokens per second, times seconds.
struct OffloadSideFigures {
  double tok_s = 0;  // generated tokens of the whole run, prefill included
  double decode_tok_s = 0;
  double prefill_tok_s = 0;
  std::vector<double> tok_s_runs;  // of each run; never empty
  // Over the requests of all runs. TTFT counts from Submit: requests that wait for a slot wait
  // longer.
  double ttft_p50_s = 0;
  double ttft_p99_s = 0;
  double tpot_p50_s = 0;
  double tpot_p99_s = 0;
};

// One Engram layer.
struct OffloadLayerFigures {
  std::string id;         // the config's own number
  double read_p50_s = 0;  // tokens known to rows ready
  double read_p99_s = 0;
  double window_p50_s = 0;  // tokens known to the layer that asks
  double in_time = 0;       // share of the steps whose rows were ready when the layer asked
  double stall_s = 0;       // waited in a step, on average
};

struct OffloadRun {
  std::string setting;     // what was asked of the model: the name of the file's folder
  std::string shape;       // of model and tables: the name of its folder
  std::string backend;     // "cpu", "cuda"
  std::string hardware;    // that it computed on
  std::string way;         // "gather over tcp, spin 10,000 us"
  double concurrency = 0;  // requests computed at once
  double requests = 0;     // of a run
  double prompt_tokens = 0;
  double generated_tokens = 0;
  double parameters_non_embedding = 0;
  double threads = 0;  // that compute, of the CPU backend
  double io_threads = 0;
  double cache_bytes = 0;
  double pairs = 0;

  std::array<std::optional<OffloadSideFigures>, kOffloadSideCount>
      sides;         // [OffloadSide]; nullopt: not run
  double ratio = 0;  // memory nodes / in process: the median of the pairs' own
  double ratio_low = 0, ratio_high = 0;
  double ratio_coverage = 0;   // probability that the median lies between these two
  double ratio_of_device = 0;  // memory nodes / GPU memory; NaN: not run

  std::vector<OffloadLayerFigures> layers;             // rows from memory nodes
  std::vector<OffloadLayerFigures> layers_in_process;  // the same layers
  double rows_verified = 0;
  double rows_wrong = 0;
  double rows_failed = 0;
  bool identical_tokens = false;  // in every run with rows from anywhere

  [[nodiscard]] const std::optional<OffloadSideFigures>& side(OffloadSide which) const {
    return sides[static_cast<size_t>(which)];
  }
  // Medians: memory nodes / Engram off; NaN: not run.
  [[nodiscard]] double ratio_of_off() const;
};

// What a file has; its `setting` is empty.
// ERRORS: kMalformed: nothing that `compare` writes, or a damaged one; says what is wrong where and
// what to do.
[[nodiscard]] Result<OffloadRun> ParseOffloadRun(std::string_view text);

// ERRORS: kNotFound or kIo: no such file, or it cannot be read; kResourceExhausted: too many bytes;
// those of ParseOffloadRun. All name the file.
[[nodiscard]] Result<OffloadRun> ReadOffloadRun(const std::filesystem::path& file);

// Those of `folder`/SETTING/*.json, by setting, shape and way, then by concurrency; never none.
// ERRORS: kNotFound: there are none; those of ReadOffloadRun, of the first file that has any.
[[nodiscard]] Result<std::vector<OffloadRun>> ReadOffloadRuns(const std::filesystem::path& folder);

}  // namespace engram::bench
