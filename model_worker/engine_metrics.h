// A model worker's counters for Prometheus: the engine's and the row source's.
#pragma once

#include <vector>

#include <prometheus/collectable.h>

#include "client/row_source.h"
#include "model_worker/engine.h"

namespace engram {

// Reads the counters at each scrape: engram_worker_*, and engram_client_* (client/row_metrics.h).
// Thread-safe.
class EngineMetrics final : public prometheus::Collectable {
 public:
  // `rows` may be null (Engram off). OWNERSHIP: both outlive this.
  EngineMetrics(const Engine* engine, const RowSource* rows) : engine_(engine), rows_(rows) {}

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const Engine* const engine_;
  const RowSource* const rows_;
};

}  // namespace engram
