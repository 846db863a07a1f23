#include "client/hedge_policy.h"

#include <algorithm>

namespace engram {

Duration HedgePolicy::LateAfter(uint32_t rows) const {
  const Duration p99 = times_[ClassOf(rows)].p99();
  // Nothing known yet: the first reads carry the wire-up and say little.
  if (p99 == Duration()) return options_.late_max;
  return std::clamp(2 * p99, options_.late_min, options_.late_max);
}

Duration HedgePolicy::HangsAfter(uint32_t rows) const {
  return std::clamp(2 * times_[ClassOf(rows)].p99(), options_.late_max, 4 * options_.late_max);
}

}  // namespace engram
