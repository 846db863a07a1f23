// Where an axis of a plot begins and ends, where its ticks are, and what they say.
#pragma once

#include <string>
#include <vector>

#include "bench/figures.h"

namespace engram::bench {

// Whether `value` has a place on the scale: not NaN, and above zero on a log scale.
[[nodiscard]] bool HasPlace(Scale scale, double value);

class AxisScale {
 public:
  // Ticks at round places (steps of 1, 2 or 5; powers of two or ten), about `ticks_wanted` of them.
  //   low, high  what must be shown; low <= high, and both have a place on the scale
  //   rounded    the axis ends at ticks; otherwise at low and high
  static AxisScale Over(Scale scale, double low, double high, int ticks_wanted, bool rounded);

  // 0 at the axis's low end, 1 at its high end. Precondition: HasPlace(scale, value).
  [[nodiscard]] double Place(double value) const;

  [[nodiscard]] double low() const { return low_; }
  [[nodiscard]] double high() const { return high_; }
  [[nodiscard]] const std::vector<double>& ticks() const { return ticks_; }
  // One for each tick, in units of `factor`, all with the same decimals on a linear scale.
  [[nodiscard]] std::vector<std::string> Labels(double factor) const;

 private:
  void MakeLinearTicks(int ticks_wanted, bool rounded);
  void MakeLogTicks(int ticks_wanted, bool rounded);

  Scale scale_ = Scale::kLinear;
  double low_ = 0;
  double high_ = 1;
  double step_ = 1;
  std::vector<double> ticks_;
};

}  // namespace engram::bench
