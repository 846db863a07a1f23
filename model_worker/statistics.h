// Medians, percentiles and an interval for the median, for run reports.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace engram {

// The value below which `fraction` of the samples lie, by linear interpolation between the two
// nearest (numpy's default). 0 without samples. Precondition: 0 <= fraction <= 1.
[[nodiscard]] double Percentile(std::span<const double> samples, double fraction);
[[nodiscard]] inline double Median(std::span<const double> samples) {
  return Percentile(samples, 0.5);
}

struct MedianInterval {
  double low = 0.0;
  double high = 0.0;
  double coverage = 0.0;  // probability that the interval holds the true median
};
// The narrowest interval between two order statistics, symmetric in rank, that holds the median of
// the samples' distribution with at least 95 % (binomial with p = 1/2; no assumption on the
// distribution's shape). With fewer than six samples no such interval exists: the smallest and the
// largest sample are given, and `coverage` says what that is worth.
[[nodiscard]] MedianInterval MedianInterval95(std::span<const double> samples);

}  // namespace engram
