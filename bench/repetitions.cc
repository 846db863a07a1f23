#include "bench/repetitions.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "engram/base/check.h"

namespace engram::bench {

Spread SpreadOf(std::vector<double> values) {
  ENGRAM_CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  const double median =
      values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
  return {median, values.front(), values.back()};
}

nlohmann::json ToJson(const Spread& spread) {
  return {{"median", spread.median}, {"least", spread.least}, {"most", spread.most}};
}

double ThreadCpuSeconds() {
  timespec time{};
  ENGRAM_CHECK(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

}  // namespace engram::bench
