// A model worker's counters for Prometheus: the engine's and the row source's.
#pragma once

#include <functional>
#include <vector>

#include <prometheus/collectable.h>

#include "client/row_source.h"
#include "model_worker/engine.h"
#include "model_worker/ranks/rank_figures.h"

namespace engram {

// Reads the counters at each scrape: engram_worker_*, and engram_client_* (client/row_metrics.h).
// Thread-safe.
class EngineMetrics final : public prometheus::Collectable {
 public:
  // `rows` may be null (Engram off). OWNERSHIP: both outlive this.
  EngineMetrics(const Engine* engine, const RowSource* rows) : engine_(engine), rows_(rows) {}

  // Of a model that several ranks compute: engram_worker_rank_* too. Before the first scrape;
  // `figures` is thread-safe.
  void SetRanks(std::function<std::vector<RankFigures>()> figures) { ranks_ = std::move(figures); }

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine* const engine_;
  const RowSource* const rows_;
  std::function<std::vector<RankFigures>()> ranks_;  // null: one rank
};

}  // namespace engram
