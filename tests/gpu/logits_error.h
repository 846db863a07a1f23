// How far a GPU's logits are from the CPU's. For tests.
#pragma once

#include <algorithm>
#include <cmath>

#include <gtest/gtest.h>

#include "tests/reference/sequence_run.h"

namespace engram::gpu {

// Of the logits' range, against fp32. Eight bits of bf16 are 0.4 % a rounding, and some dozens add
// up; a wrong kernel is off by tens of percent.
inline constexpr double kErrorMax = 0.03;

// The largest difference where both have logits, relative to the second's range; NaN is infinite.
inline double WorstError(const test::Logits& a, const test::Logits& b) {
  double worst = 0;
  size_t met = 0;
  for (size_t p = 0; p < a.size(); ++p) {
    for (size_t t = 0; t < a[p].size(); ++t) {
      if (a[p][t].empty() || b[p][t].empty()) continue;
      ++met;
      const auto [low, high] = std::minmax_element(b[p][t].begin(), b[p][t].end());
      for (size_t i = 0; i < a[p][t].size(); ++i) {
        const double error = std::abs(double{a[p][t][i]} - double{b[p][t][i]}) / (*high - *low);
        if (!(error <= worst)) worst = std::isnan(error) ? 1e9 : error;
      }
    }
  }
  EXPECT_GE(met, a.size());
  return worst;
}

}  // namespace engram::gpu
