// Prometheus' metric families, written one sample after another.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <prometheus/client_metric.h>
#include <prometheus/metric_family.h>

#include "engram/base/time_buckets.h"

namespace engram {

// Adds families to a list. Samples of one family come after each other. What each name means, and
// what to watch of it, stands in docs/METRICS.md. Thread-compatible.
class FamilyWriter {
 public:
  using Labels = std::vector<prometheus::ClientMetric::Label>;

  // OWNERSHIP: `families` outlives the writer.
  explicit FamilyWriter(std::vector<prometheus::MetricFamily>* families) : families_(families) {}

  template <typename Number>
  void Gauge(const std::string& name, const std::string& help, Number value, Labels labels = {}) {
    Sample(name, help, prometheus::MetricType::Gauge, std::move(labels)).gauge.value =
        static_cast<double>(value);
  }
  void Counter(const std::string& name, const std::string& help, uint64_t value,
               Labels labels = {}) {
    Sample(name, help, prometheus::MetricType::Counter, std::move(labels)).counter.value =
        static_cast<double>(value);
  }
  // Nanoseconds, told as seconds.
  void TimeCounter(const std::string& name, const std::string& help, uint64_t ns,
                   Labels labels = {});
  void Histogram(const std::string& name, const std::string& help, const TimeBuckets& times,
                 Labels labels = {});

 private:
  prometheus::ClientMetric& Sample(const std::string& name, const std::string& help,
                                   prometheus::MetricType type, Labels labels);

  std::vector<prometheus::MetricFamily>* families_;
};

}  // namespace engram
