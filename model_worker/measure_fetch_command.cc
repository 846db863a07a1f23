#include <algorithm>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "engram/base/clock.h"
#include "model_worker/commands.h"
#include "model_worker/loaded_model.h"
#include "model_worker/ranks/rank_rows.h"
#include "model_worker/run_report.h"

namespace engram {
namespace {

double Median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

// One number of tokens, both ways.
struct FetchPoint {
  uint32_t tokens = 0;
  uint64_t rows = 0;
  std::vector<double> cooperative_us, all_us;  // by batch
};

class FetchMeasurement {
 public:
  FetchMeasurement(const MeasureFetchOptions& options, const LoadedModel& model,
                   Collective* collective, RowSource* source)
      : options_(options), model_(model), collective_(collective), rows_(collective, {source}) {}

  [[nodiscard]] Result<std::vector<FetchPoint>> Run() {
    std::vector<FetchPoint> points;
    for (uint32_t tokens = 1; tokens <= options_.worker.step_tokens; tokens *= 2) {
      FetchPoint& point = points.emplace_back();
      point.tokens = tokens;
      point.rows = uint64_t{tokens} * static_cast<uint64_t>(model_.layout->column_count()) *
                   static_cast<uint64_t>(model_.layout->layer_count());
      // In turn, so that what else the machine does meets both; the first pair warms up.
      for (uint32_t pair = 0; pair <= options_.pairs; ++pair) {
        for (const bool striped : {pair % 2 == 0, pair % 2 != 0}) {
          ENGRAM_ASSIGN_OR_RETURN(const double us, ReadOne(tokens, striped));
          if (pair != 0) (striped ? point.cooperative_us : point.all_us).push_back(us);
        }
      }
    }
    return points;
  }

 private:
  // Prefetch to the last layer's rows, of a batch of new tokens; the ranks begin together.
  [[nodiscard]] Result<double> ReadOne(uint32_t count, bool striped) {
    std::vector<TokenId> tokens(count);
    for (TokenId& token : tokens) {
      token = static_cast<TokenId>(random_() % static_cast<uint32_t>(model_.vocabulary_size));
    }
    const TokenRun run{.tokens = tokens};
    BatchOptions batch;
    batch.deadline = std::chrono::milliseconds(options_.worker.row_deadline_ms);
    batch.striped = striped;
    float nothing = 0;
    if (const Status met = collective_->AllReduce({&nothing, 1}); !met.ok()) {
      collective_->Abort(met);
    }
    const Ticket ticket(++tickets_);
    const MonotonicTime began = SteadyClock().Now();
    const Status asked = rows_.Prefetch(ticket, 0, {&run, 1}, batch);
    Status read;
    for (int32_t layer = 0; read.ok() && layer < model_.layout->layer_count(); ++layer) {
      const auto rows = rows_.Await(ticket, layer);
      if (!rows.has_value()) read = rows.error();
    }
    const double us =
        std::chrono::duration<double, std::micro>(SteadyClock().Now() - began).count();
    rows_.Release(ticket);
    ENGRAM_TRY(asked);
    ENGRAM_TRY(read);
    return us;
  }

  const MeasureFetchOptions& options_;
  const LoadedModel& model_;
  Collective* const collective_;
  RankRows rows_;
  std::mt19937 random_{1};  // every rank draws the same
  uint64_t tickets_ = 0;
};

// The rows from which on every point reads faster together; 0 = none does.
uint64_t CrossingOf(const std::vector<FetchPoint>& points) {
  uint64_t crossing = 0;
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    if (Median(point->cooperative_us) >= Median(point->all_us)) break;
    crossing = point->rows;
  }
  return crossing;
}

}  // namespace

Status RunMeasureFetch(const MeasureFetchOptions& options) {
  ENGRAM_RETURN_IF_ERROR(CheckWorkerOptions(options.worker));
  auto ranks = RankGroup::Join(options.worker);
  if (!ranks.has_value()) return ranks.error();
  if (ranks->collective() == nullptr) {
    return {StatusCode::kInvalidArgument,
            "one rank has nobody to read with: start it as mpirun -np 2 engram-model-worker "
            "measure-fetch ..."};
  }
  auto model = LoadModel(options.worker, /*rows_wanted=*/true, *ranks);
  if (!model.has_value()) return model.error();
  auto rows = OpenRows(options.worker, *model, *ranks);
  if (!rows.has_value()) return rows.error();
  ranks->LimitWaits(options.worker);
  spdlog::info("measuring batches of 1 to {} tokens", options.worker.step_tokens);
  auto points = FetchMeasurement(options, *model, ranks->collective(), rows->source.get()).Run();
  ENGRAM_RETURN_IF_ERROR(ranks->Agree(points.has_value() ? Status() : points.error()));
  if (ranks->follows()) return {};
  const uint64_t crossing = CrossingOf(*points);
  nlohmann::json report = {{"ranks", ranks->part().count},
                           {"pairs", options.pairs},
                           {"way", rows->way},
                           {"transport", options.worker.transport},
                           {"nodes", rows->node_count},
                           {"io_threads", options.worker.io_threads},
                           {"cooperative_from_rows", crossing}};
  std::printf(
      "%u ranks, %zu memory nodes; medians of %u batches, Prefetch to the last row\n"
      "tokens     rows  cooperative us     all us  all / cooperative\n",
      ranks->part().count, rows->node_count, options.pairs);
  for (const FetchPoint& point : *points) {
    const double cooperative = Median(point.cooperative_us);
    const double all = Median(point.all_us);
    std::printf("%6u %8llu %15.1f %10.1f %18.2f\n", point.tokens,
                static_cast<unsigned long long>(point.rows), cooperative, all, all / cooperative);
    report["points"].push_back({{"tokens", point.tokens},
                                {"rows", point.rows},
                                {"cooperative_us", cooperative},
                                {"all_us", all}});
  }
  if (crossing == 0) {
    std::printf("every rank reading all rows was never slower: --fetch all\n");
  } else {
    std::printf("reading together was faster from %llu rows on: --fetch-rows %llu\n",
                static_cast<unsigned long long>(crossing),
                static_cast<unsigned long long>(crossing));
  }
  if (options.json_file.empty()) return {};
  return WriteFile(options.json_file, report.dump(2) + "\n");
}

}  // namespace engram
