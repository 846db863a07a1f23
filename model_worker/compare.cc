#include "model_worker/compare.h"

#include <algorithm>
#include <cstdio>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "model_worker/run_report.h"
#include "model_worker/statistics.h"

namespace engram {
namespace {

using Runs = std::vector<BatchRun>;

std::vector<double> Figures(const Runs& runs, double (BatchRun::*figure)() const) {
  std::vector<double> figures;
  for (const BatchRun& run : runs) figures.push_back((run.*figure)());
  return figures;
}

double MedianOf(const Runs& runs, double (BatchRun::*figure)() const) {
  return Median(Figures(runs, figure));
}

double WallSeconds(const Runs& runs) {
  double wall_s = 0.0;
  for (const BatchRun& run : runs) wall_s += run.wall_s;
  return wall_s;
}

// A side's name in reports and for a person.
struct NamedRuns {
  const char* name;
  const char* what;
  const Runs* runs;
};

std::vector<NamedRuns> AllRuns(const CompareResult& result) {
  std::vector<NamedRuns> all = {{"remote", "tables on the memory nodes", &result.remote},
                                {"local", "same tables in this process", &result.local}};
  if (!result.device.empty()) {
    all.push_back({"device", "same tables in GPU memory", &result.device});
  }
  all.push_back({"off", "Engram off", &result.off});
  return all;
}

// [pairs] tokens per second, remote / other.
std::vector<double> Ratios(const Runs& remote, const Runs& other) {
  std::vector<double> ratios;
  for (size_t i = 0; i < other.size(); ++i) {
    ratios.push_back(other[i].tok_s() > 0.0 ? remote[i].tok_s() / other[i].tok_s() : 0.0);
  }
  return ratios;
}

std::string RatioLine(const char* other, const std::vector<double>& ratios) {
  const MedianInterval interval = MedianInterval95(ratios);
  char line[240];
  std::snprintf(
      line, sizeof(line), "remote / %s: median of %zu pairs %.4f, %.1f %% interval %.4f to %.4f\n",
      other, ratios.size(), Median(ratios), 100.0 * interval.coverage, interval.low, interval.high);
  return line;
}

// Runs sides and reports.
class Comparison {
 public:
  Comparison(std::span<const std::vector<TokenId>> prompts, const CompareOptions& options,
             const std::function<void(const std::string&)>& progress)
      : prompts_(prompts), options_(options), progress_(progress) {}

  Status Run(const char* name, const std::string& place, const CompareSide& side, Runs* runs) {
    auto run = RunBatch(side.engine, prompts_, options_.batch);
    if (!run.has_value()) return run.error().WithContext(name);
    if (Status failure = run->FirstFailure(); !failure.ok()) return failure.WithContext(name);
    if (progress_) {
      char line[160];
      std::snprintf(line, sizeof(line), "%-9s %-6s %8.1f tok/s  (%.2f s)", place.c_str(), name,
                    run->tok_s(), run->wall_s);
      progress_(line);
    }
    if (runs != nullptr) runs->push_back(*std::move(run));
    return {};
  }

 private:
  std::span<const std::vector<TokenId>> prompts_;
  const CompareOptions& options_;
  const std::function<void(const std::string&)>& progress_;
};

}  // namespace

std::vector<double> CompareResult::ratios() const { return Ratios(remote, local); }

std::vector<double> CompareResult::ratios_device() const { return Ratios(remote, device); }

bool CompareResult::identical_tokens() const {
  const auto expected = remote.front().token_ids();
  const auto same = [&](const BatchRun& run) { return run.token_ids() == expected; };
  return std::all_of(remote.begin(), remote.end(), same) &&
         std::all_of(local.begin(), local.end(), same) &&
         std::all_of(device.begin(), device.end(), same);
}

uint32_t CompareResult::off_requests_differing() const {
  if (off.empty()) return 0;
  const auto with_rows = remote.front().token_ids();
  const auto without = off.front().token_ids();
  uint32_t differing = 0;
  for (size_t i = 0; i < with_rows.size(); ++i) differing += with_rows[i] != without[i];
  return differing;
}

Result<CompareResult> Compare(const CompareSides& sides,
                              std::span<const std::vector<TokenId>> prompts,
                              const CompareOptions& options,
                              const std::function<void(const std::string&)>& progress) {
  ENGRAM_CHECK(sides.off.rows == nullptr);
  if (options.pairs == 0) {
    return Error(StatusCode::kInvalidArgument, "pairs is 0; it must be at least 1");
  }
  CompareResult result;
  struct Turn {
    const char* name;
    const CompareSide* side;
    Runs* runs;
    RowSourceStats* rows;
  };
  std::vector<Turn> turns = {{"remote", &sides.remote, &result.remote, &result.remote_rows},
                             {"local", &sides.local, &result.local, &result.local_rows}};
  if (sides.device.has_value()) {
    turns.push_back({"device", &*sides.device, &result.device, &result.device_rows});
  }
  Comparison comparison(prompts, options, progress);
  for (const Turn& turn : turns) {
    ENGRAM_CHECK(turn.side->rows != nullptr);
    ENGRAM_TRY(comparison.Run(turn.name, "warm-up", *turn.side, nullptr));
    turn.side->rows->ResetStats();
  }
  if (options.off_runs > 0) ENGRAM_TRY(comparison.Run("off", "warm-up", sides.off, nullptr));
  for (uint32_t pair = 0; pair < options.pairs; ++pair) {
    const std::string place =
        "pair " + std::to_string(pair + 1) + "/" + std::to_string(options.pairs);
    if (pair > 0) std::reverse(turns.begin(), turns.end());
    for (const Turn& turn : turns) {
      ENGRAM_TRY(comparison.Run(turn.name, place, *turn.side, turn.runs));
    }
    // Spread evenly: off run k comes after pair k * pairs / off_runs.
    while (result.off.size() < options.off_runs &&
           result.off.size() * options.pairs <= uint64_t{pair} * options.off_runs) {
      ENGRAM_TRY(comparison.Run("off", place, sides.off, &result.off));
    }
  }
  while (result.off.size() < options.off_runs) {
    ENGRAM_TRY(comparison.Run("off", "end", sides.off, &result.off));
  }
  for (const Turn& turn : turns) *turn.rows = turn.side->rows->Stats();
  return result;
}

nlohmann::json CompareReport(const CompareResult& result, std::span<const int32_t> layer_ids) {
  // The remote side's rows at top level, the other sides' in objects of their own.
  nlohmann::json report = RowReport(result.remote_rows, layer_ids, WallSeconds(result.remote));
  report["remote_stall_percent"] = report["stall_percent"];
  report.erase("stall_percent");
  report["local"] = RowReport(result.local_rows, layer_ids, WallSeconds(result.local));
  report["tok_s_meaning"] =
      "median over the runs of generated tokens per second of the whole run, prefill included";
  for (const auto& [name, what, runs] : AllRuns(result)) {
    const std::string side(name);
    report["tok_s_" + side] = MedianOf(*runs, &BatchRun::tok_s);
    report["prefill_tok_s_" + side] = MedianOf(*runs, &BatchRun::prefill_tok_s);
    report["decode_tok_s_" + side] = MedianOf(*runs, &BatchRun::decode_tok_s);
    report["latency_" + side] = LatencyReport(*runs);
    report["tok_s_" + side + "_runs"] = Figures(*runs, &BatchRun::tok_s);
  }
  const std::vector<double> ratios = result.ratios();
  const MedianInterval interval = MedianInterval95(ratios);
  report["pairs"] = ratios.size();
  report["ratios"] = ratios;
  report["ratio_median"] = Median(ratios);
  report["ratio_ci95"] = {interval.low, interval.high};
  report["ratio_ci95_method"] = "order statistics of the pairs' ratios (binomial, p = 1/2)";
  report["ratio_ci95_coverage"] = interval.coverage;
  if (!result.device.empty()) {
    report["device"] = RowReport(result.device_rows, layer_ids, WallSeconds(result.device));
    const std::vector<double> of_device = result.ratios_device();
    const MedianInterval device_interval = MedianInterval95(of_device);
    report["ratios_device"] = of_device;
    report["ratio_median_device"] = Median(of_device);
    report["ratio_device_ci95"] = {device_interval.low, device_interval.high};
  }
  report["identical_tokens"] = result.identical_tokens();
  report["off_differs"] = result.off_requests_differing() > 0;
  report["off_requests_differing"] = result.off_requests_differing();
  report["requests"] = result.remote.front().results.size();
  report["prompt_tokens"] = result.remote.front().prompt_tokens;
  report["generated_tokens"] = result.remote.front().generated_tokens;
  report["token_ids"] = result.remote.front().token_ids();
  return report;
}

std::string CompareTable(const CompareResult& result, std::span<const int32_t> layer_ids) {
  std::string table;
  char line[240];
  std::snprintf(line, sizeof(line), "%-34s %10s %14s %13s %17s %15s\n",
                "generated tokens per second", "tok/s", "prefill tok/s", "decode tok/s",
                "TTFT p50, p99 ms", "TPOT p50, p99");
  table += line;
  for (const auto& [name, what, runs] : AllRuns(result)) {
    const nlohmann::json latency = LatencyReport(*runs);
    std::snprintf(line, sizeof(line), "  %-32s %10.1f %14.1f %13.1f %8.1f %8.1f %7.2f %7.2f\n",
                  what, MedianOf(*runs, &BatchRun::tok_s),
                  MedianOf(*runs, &BatchRun::prefill_tok_s),
                  MedianOf(*runs, &BatchRun::decode_tok_s), latency["ttft_p50_ms"].get<double>(),
                  latency["ttft_p99_ms"].get<double>(), latency["tpot_p50_ms"].get<double>(),
                  latency["tpot_p99_ms"].get<double>());
    table += line;
  }
  table += RatioLine("in process", result.ratios());
  if (!result.device.empty()) table += RatioLine("in GPU memory", result.ratios_device());
  std::snprintf(line, sizeof(line),
                "same tokens in every run with rows: %s; other tokens with Engram off: "
                "%u of %zu requests\n",
                result.identical_tokens() ? "yes" : "NO", result.off_requests_differing(),
                result.remote.front().results.size());
  table += line;
  return table + RowTable(result.remote_rows, layer_ids, WallSeconds(result.remote));
}

}  // namespace engram
