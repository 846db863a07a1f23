// Latencies as a full histogram: any percentile can be had, and those of several processes merged.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <tuple>

#include <boost/histogram/axis/regular.hpp>
#include <boost/histogram/histogram.hpp>
#include <boost/histogram/storage_adaptor.hpp>
#include <nlohmann/json.hpp>

#include "bench/figures.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram::bench {

// From 0.1 us to 100 s in bins 1.6 % wide. Add does not allocate. Thread-compatible.
class LatencyHistogram {
 public:
  LatencyHistogram();

  void Add(Duration took) {
    bins_(std::chrono::duration<double, std::micro>(took).count());
    ++count_;
  }
  void Merge(const LatencyHistogram& other);

  [[nodiscard]] uint64_t count() const { return count_; }
  // The upper edge of the bin in which the percentile lies, in microseconds; 0 without samples.
  //   fraction  0 to 1: 0.5 is the median
  [[nodiscard]] double PercentileUs(double fraction) const;
  // The share of samples that took at most so long (to a bin).
  [[nodiscard]] double ShareUpTo(Duration bound) const;

  // [[bin, count], ...] of bins that are not empty.
  [[nodiscard]] nlohmann::json ToJson() const;
  // ERRORS: kMalformed.
  [[nodiscard]] static Result<LatencyHistogram> FromJson(const nlohmann::json& json);
  // For a plot of kind kCdf: what fraction took at most so many seconds.
  [[nodiscard]] Series Cumulative(std::string name) const;

 private:
  using Axis = boost::histogram::axis::regular<double, boost::histogram::axis::transform::log>;
  using Bins =
      boost::histogram::histogram<std::tuple<Axis>, boost::histogram::dense_storage<uint64_t>>;
  [[nodiscard]] const Axis& axis() const { return bins_.axis(); }

  Bins bins_;
  uint64_t count_ = 0;
};

}  // namespace engram::bench
