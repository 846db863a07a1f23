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

std::vector<double> CompareResult::ratios() const {
  std::vector<double> ratios;
  for (size_t i = 0; i < remote.size(); ++i) {
    ratios.push_back(local[i].tok_s() > 0.0 ? remote[i].tok_s() / local[i].tok_s() : 0.0);
  }
  return ratios;
}

bool CompareResult::identical_tokens() const {
  const auto expected = remote.front().token_ids();
  const auto same = [&](const BatchRun& run) { return run.token_ids() == expected; };
  return std::all_of(remote.begin(), remote.end(), same) &&
         std::all_of(local.begin(), local.end(), same);
}

uint32_t CompareResult::off_requests_differing() const {
  if (off.empty()) return 0;
  const auto with_rows = remote.front().token_ids();
  const auto without = off.front().token_ids();
  uint32_t differing = 0;
  for (size_t i = 0; i < with_rows.size(); ++i) differing += with_rows[i] != without[i];
  return differing;
}

Result<CompareResult> Compare(const CompareSide& remote, const CompareSide& local,
                              const CompareSide& off, std::span<const std::vector<TokenId>> prompts,
                              const CompareOptions& options,
                              const std::function<void(const std::string&)>& progress) {
  ENGRAM_CHECK(remote.rows != nullptr && local.rows != nullptr && off.rows == nullptr);
  if (options.pairs == 0) {
    return Error(StatusCode::kInvalidArgument, "pairs is 0; it must be at least 1");
  }
  CompareResult result;
  Comparison comparison(prompts, options, progress);
  ENGRAM_TRY(comparison.Run("remote", "warm-up", remote, nullptr));
  ENGRAM_TRY(comparison.Run("local", "warm-up", local, nullptr));
  if (options.off_runs > 0) ENGRAM_TRY(comparison.Run("off", "warm-up", off, nullptr));
  remote.rows->ResetStats();
  local.rows->ResetStats();
  for (uint32_t pair = 0; pair < options.pairs; ++pair) {
    const std::string place =
        "pair " + std::to_string(pair + 1) + "/" + std::to_string(options.pairs);
    if (pair % 2 == 0) ENGRAM_TRY(comparison.Run("remote", place, remote, &result.remote));
    ENGRAM_TRY(comparison.Run("local", place, local, &result.local));
    if (pair % 2 == 1) ENGRAM_TRY(comparison.Run("remote", place, remote, &result.remote));
    // Spread evenly: off run k comes after pair k * pairs / off_runs.
    while (result.off.size() < options.off_runs &&
           result.off.size() * options.pairs <= uint64_t{pair} * options.off_runs) {
      ENGRAM_TRY(comparison.Run("off", place, off, &result.off));
    }
  }
  while (result.off.size() < options.off_runs) {
    ENGRAM_TRY(comparison.Run("off", "end", off, &result.off));
  }
  result.remote_rows = remote.rows->Stats();
  result.local_rows = local.rows->Stats();
  return result;
}

nlohmann::json CompareReport(const CompareResult& result, std::span<const int32_t> layer_ids) {
  // The remote side's rows at top level, the local side's in an object of their own.
  nlohmann::json report = RowReport(result.remote_rows, layer_ids, WallSeconds(result.remote));
  report["remote_stall_percent"] = report["stall_percent"];
  report.erase("stall_percent");
  report["local"] = RowReport(result.local_rows, layer_ids, WallSeconds(result.local));
  report["tok_s_remote"] = MedianOf(result.remote, &BatchRun::tok_s);
  report["tok_s_local"] = MedianOf(result.local, &BatchRun::tok_s);
  report["tok_s_off"] = MedianOf(result.off, &BatchRun::tok_s);
  report["tok_s_meaning"] =
      "median over the runs of generated tokens per second of the whole run, prefill included";
  for (const auto& [name, runs] : {std::pair<const char*, const Runs*>{"remote", &result.remote},
                                   {"local", &result.local},
                                   {"off", &result.off}}) {
    const std::string side(name);
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
  const std::vector<double> ratios = result.ratios();
  const MedianInterval interval = MedianInterval95(ratios);
  std::string table;
  char line[240];
  std::snprintf(line, sizeof(line), "%-34s %10s %14s %13s %17s %15s\n",
                "generated tokens per second", "tok/s", "prefill tok/s", "decode tok/s",
                "TTFT p50, p99 ms", "TPOT p50, p99");
  table += line;
  for (const auto& [name, runs] :
       {std::pair<const char*, const Runs*>{"  tables on the memory nodes", &result.remote},
        {"  same tables in this process", &result.local},
        {"  Engram off", &result.off}}) {
    const nlohmann::json latency = LatencyReport(*runs);
    std::snprintf(line, sizeof(line), "%-34s %10.1f %14.1f %13.1f %8.1f %8.1f %7.2f %7.2f\n", name,
                  MedianOf(*runs, &BatchRun::tok_s), MedianOf(*runs, &BatchRun::prefill_tok_s),
                  MedianOf(*runs, &BatchRun::decode_tok_s), latency["ttft_p50_ms"].get<double>(),
                  latency["ttft_p99_ms"].get<double>(), latency["tpot_p50_ms"].get<double>(),
                  latency["tpot_p99_ms"].get<double>());
    table += line;
  }
  std::snprintf(line, sizeof(line),
                "remote / in process: median of %zu pairs %.4f, %.1f %% interval %.4f to %.4f\n",
                ratios.size(), Median(ratios), 100.0 * interval.coverage, interval.low,
                interval.high);
  table += line;
  std::snprintf(line, sizeof(line),
                "same tokens in every remote and in-process run: %s; other tokens with Engram off: "
                "%u of %zu requests\n",
                result.identical_tokens() ? "yes" : "NO", result.off_requests_differing(),
                result.remote.front().results.size());
  table += line;
  return table + RowTable(result.remote_rows, layer_ids, WallSeconds(result.remote));
}

}  // namespace engram
