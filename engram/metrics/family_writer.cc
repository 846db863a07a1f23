#include "engram/metrics/family_writer.h"

#include <utility>

namespace engram {
namespace {

// A division: the product with 1e-9 would print as 4.9999999999999996e-06.
double Seconds(uint64_t ns) { return static_cast<double>(ns) / 1e9; }

}  // namespace

void FamilyWriter::TimeCounter(const std::string& name, const std::string& help, uint64_t ns,
                               Labels labels) {
  Sample(name, help, prometheus::MetricType::Counter, std::move(labels)).counter.value =
      Seconds(ns);
}

void FamilyWriter::Histogram(const std::string& name, const std::string& help,
                             const TimeBuckets& times, Labels labels) {
  auto& histogram =
      Sample(name, help, prometheus::MetricType::Histogram, std::move(labels)).histogram;
  uint64_t so_far = 0;
  for (size_t i = 0; i < TimeBuckets::kUpperNs.size(); ++i) {
    so_far += times.counts[i];
    histogram.bucket.push_back({so_far, Seconds(TimeBuckets::kUpperNs[i])});
  }
  histogram.sample_count = so_far + times.counts.back();
  histogram.sample_sum = Seconds(times.sum_ns);
}

prometheus::ClientMetric& FamilyWriter::Sample(const std::string& name, const std::string& help,
                                               prometheus::MetricType type, Labels labels) {
  if (families_->empty() || families_->back().name != name) {
    families_->push_back({name, help, type, {}});
  }
  prometheus::ClientMetric& metric = families_->back().metric.emplace_back();
  metric.label = std::move(labels);
  return metric;
}

}  // namespace engram
