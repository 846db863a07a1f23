// A row source's counters for Prometheus.
#pragma once

#include <vector>

#include <prometheus/collectable.h>

#include "client/row_source.h"

namespace engram {

// The families engram_client_*, made of Counts() when they are asked for; docs/METRICS.md says what
// each means. An engine registers it where it is scraped. Thread-safe.
class RowMetrics final : public prometheus::Collectable {
 public:
  // OWNERSHIP: `rows` outlives this.
  explicit RowMetrics(const RowSource* rows) : rows_(rows) {}

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const RowSource* const rows_;
};

}  // namespace engram
