#include "bench/latency_histogram.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <boost/histogram/make_histogram.hpp>

namespace engram::bench {
namespace {
constexpr double kLeastUs = 0.1;
constexpr double kMostUs = 1e8;
constexpr unsigned kBins = 9 * 145;  // nine decades; 10^(1/145) is 1.016
}  // namespace

LatencyHistogram::LatencyHistogram()
    : bins_(boost::histogram::make_histogram_with(boost::histogram::dense_storage<uint64_t>(),
                                                  Axis(kBins, kLeastUs, kMostUs))) {}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  // Not Boost's +=, which GCC 12 with ASan takes for a read of something uninitialized.
  for (int bin = -1; bin <= axis().size(); ++bin) bins_.at(bin) += other.bins_.at(bin);
  count_ += other.count_;
}

double LatencyHistogram::PercentileUs(double fraction) const {
  if (count_ == 0) return 0;
  const auto wanted = std::max<uint64_t>(
      1, static_cast<uint64_t>(std::ceil(fraction * static_cast<double>(count_))));
  uint64_t seen = 0;
  for (int bin = -1; bin < axis().size(); ++bin) {
    seen += bins_.at(bin);
    if (seen >= wanted) return axis().value(bin + 1);
  }
  return kMostUs;
}

double LatencyHistogram::ShareUpTo(Duration bound) const {
  if (count_ == 0) return 0;
  const int last = axis().index(std::chrono::duration<double, std::micro>(bound).count());
  uint64_t seen = 0;
  for (int bin = -1; bin <= last; ++bin) seen += bins_.at(bin);
  return static_cast<double>(seen) / static_cast<double>(count_);
}

nlohmann::json LatencyHistogram::ToJson() const {
  nlohmann::json json = nlohmann::json::array();
  for (int bin = -1; bin <= axis().size(); ++bin) {
    if (bins_.at(bin) != 0) json.push_back({bin, bins_.at(bin)});
  }
  return json;
}

Result<LatencyHistogram> LatencyHistogram::FromJson(const nlohmann::json& json) {
  LatencyHistogram histogram;
  const Status malformed(StatusCode::kMalformed, "a histogram is pairs of a bin and a count");
  if (!json.is_array()) return Error(malformed);
  for (const nlohmann::json& pair : json) {
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_number_integer() ||
        !pair[1].is_number_unsigned() || pair[0] < -1 || pair[0] > histogram.axis().size()) {
      return Error(malformed);
    }
    histogram.bins_.at(pair[0].get<int>()) += pair[1].get<uint64_t>();
    histogram.count_ += pair[1].get<uint64_t>();
  }
  return histogram;
}

Series LatencyHistogram::Cumulative(std::string name) const {
  Series series{.name = std::move(name), .points = {}, .low_high = {}};
  uint64_t seen = 0;
  for (int bin = -1; bin <= axis().size(); ++bin) {
    if (bins_.at(bin) == 0) continue;
    seen += bins_.at(bin);
    const double upper_us = bin < axis().size() ? axis().value(bin + 1) : kMostUs;
    series.Add(1e-6 * upper_us, static_cast<double>(seen) / static_cast<double>(count_));
  }
  return series;
}

}  // namespace engram::bench
