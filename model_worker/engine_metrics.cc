#include "model_worker/engine_metrics.h"

#include <string>
#include <utility>

#include <prometheus/metric_family.h>

#include "engram/base/check.h"

namespace engram {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<ClientMetric::Label>;

// Families with one or several labelled values.
class Families {
 public:
  Families& Add(const char* name, const char* description, MetricType type) {
    MetricFamily family;
    family.name = name;
    family.help = description;
    family.type = type;
    families_.push_back(std::move(family));
    return *this;
  }
  Families& Value(double value, Labels labels = {}) {
    ENGRAM_CHECK(!families_.empty());
    ClientMetric metric;
    metric.label = std::move(labels);
    if (families_.back().type == MetricType::Counter) {
      metric.counter.value = value;
    } else {
      metric.gauge.value = value;
    }
    families_.back().metric.push_back(std::move(metric));
    return *this;
  }
  [[nodiscard]] std::vector<MetricFamily> Take() { return std::move(families_); }

 private:
  std::vector<MetricFamily> families_;
};

void AddEngine(const EngineStats& stats, Families* out) {
  const auto number = [](uint64_t n) { return static_cast<double>(n); };
  out->Add("engram_worker_steps_total", "Steps of the engine", MetricType::Counter)
      .Value(number(stats.steps));
  out->Add("engram_worker_tokens_total", "Tokens computed, by phase", MetricType::Counter)
      .Value(number(stats.prefill_tokens), {{"phase", "prefill"}})
      .Value(number(stats.decode_tokens), {{"phase", "decode"}});
  out->Add("engram_worker_step_seconds_total", "Wall time of steps: with prefill, or decode only",
           MetricType::Counter)
      .Value(number(stats.prefill_step_ns) * 1e-9, {{"phase", "prefill"}})
      .Value(number(stats.decode_step_ns) * 1e-9, {{"phase", "decode"}});
  out->Add("engram_worker_requests_total", "Requests by how they ended", MetricType::Counter)
      .Value(number(stats.requests_finished), {{"result", "finished"}})
      .Value(number(stats.requests_failed), {{"result", "failed"}})
      .Value(number(stats.requests_cancelled), {{"result", "cancelled"}})
      .Value(number(stats.requests_refused), {{"result", "refused"}});
  out->Add("engram_worker_steps_without_rows_total", "Steps lost because rows could not be had",
           MetricType::Counter)
      .Value(number(stats.steps_without_rows));
  out->Add("engram_worker_requests_queued", "Requests that wait for a slot", MetricType::Gauge)
      .Value(stats.queued);
  out->Add("engram_worker_requests_running", "Requests that hold a slot", MetricType::Gauge)
      .Value(stats.running);
}

void AddRows(const RowSource& rows, Families* out) {
  const RowSourceStats stats = rows.Stats();
  const auto number = [](uint64_t n) { return static_cast<double>(n); };
  out->Add("engram_worker_rows_total", "Engram rows, by what became of them", MetricType::Counter)
      .Value(number(stats.rows_asked), {{"state", "asked"}})
      .Value(number(stats.rows_unique), {{"state", "unique"}})
      .Value(number(stats.rows_from_cache), {{"state", "from_cache"}})
      .Value(number(stats.rows_read), {{"state", "read"}})
      .Value(number(stats.rows_verified), {{"state", "verified"}})
      .Value(number(stats.rows_wrong), {{"state", "wrong"}})
      .Value(number(stats.rows_failed), {{"state", "failed"}});
  out->Add("engram_worker_row_reads_retried_total", "Reads of rows tried again",
           MetricType::Counter)
      .Value(number(stats.reads_retried));
  out->Add("engram_worker_row_reads_hedged_total",
           "Late reads of rows asked of another replica too", MetricType::Counter)
      .Value(number(stats.reads_hedged));
  out->Add("engram_worker_row_hedges_won_total",
           "Hedged reads of rows that the other replica answered first", MetricType::Counter)
      .Value(number(stats.hedges_won));
  out->Add("engram_worker_row_path_cpu_seconds_total", "CPU time of hashing and row I/O threads",
           MetricType::Counter)
      .Value(number(stats.row_path_cpu_ns) * 1e-9);
  const auto& layer_ids = rows.hasher().spec().layer_ids;
  const auto each_layer = [&](auto value) {
    for (size_t i = 0; i < stats.layers.size() && i < layer_ids.size(); ++i) {
      out->Value(value(stats.layers[i]), {{"layer", std::to_string(layer_ids[i])}});
    }
  };
  out->Add("engram_worker_prefetches_total", "Batches of rows prefetched, by layer",
           MetricType::Counter);
  each_layer([&](const RowSourceStats::Layer& layer) { return number(layer.batches); });
  out->Add("engram_worker_prefetches_in_time_total",
           "Batches whose rows were there before the layer asked", MetricType::Counter);
  each_layer([&](const RowSourceStats::Layer& layer) { return number(layer.batches_in_time); });
  out->Add("engram_worker_stall_seconds_total", "Time layers waited for rows", MetricType::Counter);
  each_layer([&](const RowSourceStats::Layer& layer) { return number(layer.stall_ns) * 1e-9; });
}

}  // namespace

std::vector<MetricFamily> EngineMetrics::Collect() const {
  Families families;
  AddEngine(engine_->Stats(), &families);
  if (rows_ != nullptr) AddRows(*rows_, &families);
  return families.Take();
}

}  // namespace engram
