#include "model_worker/statistics.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "engram/base/check.h"

namespace engram {

double Percentile(std::span<const double> samples, double fraction) {
  ENGRAM_CHECK(fraction >= 0.0 && fraction <= 1.0);
  if (samples.empty()) return 0.0;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const double place = fraction * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - static_cast<double>(below));
}

MedianInterval MedianInterval95(std::span<const double> samples) {
  MedianInterval interval;
  if (samples.empty()) return interval;
  std::vector<double> sorted(samples.begin(), samples.end());
  std::sort(sorted.begin(), sorted.end());
  const size_t n = sorted.size();
  // The median lies below the k-th smallest sample with probability sum_{i < k} C(n, i) / 2^n, and
  // above the k-th largest with the same.
  double outside = 0.0;
  double term = std::pow(0.5, static_cast<double>(n));
  size_t k = 0;
  while (k + 1 <= n / 2 && (k == 0 || outside + term <= 0.025)) {
    outside += term;
    term *= static_cast<double>(n - k) / static_cast<double>(k + 1);
    ++k;
  }
  if (k == 0) k = 1, outside = 0.5;  // one sample
  interval.low = sorted[k - 1];
  interval.high = sorted[n - k];
  interval.coverage = 1.0 - 2.0 * outside;
  return interval;
}

}  // namespace engram
