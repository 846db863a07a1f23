// Repeated measurements and their spread.
#pragma once

#include <vector>

#include <nlohmann/json.hpp>

namespace engram::bench {

struct Spread {
  double median = 0;
  double least = 0;
  double most = 0;
};

// Precondition: !values.empty(). The median of an even number of values is the mean of the middle
// two.
[[nodiscard]] Spread SpreadOf(std::vector<double> values);
// {"median", "least", "most"}
[[nodiscard]] nlohmann::json ToJson(const Spread& spread);

// CPU seconds that this thread has used: other processes on a busy machine do not count.
[[nodiscard]] double ThreadCpuSeconds();

}  // namespace engram::bench
