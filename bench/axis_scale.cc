#include "bench/axis_scale.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "bench/number_text.h"
#include "engram/base/check.h"

namespace engram::bench {
namespace {

// 1, 2 or 5 times a power of ten, at least `step`.
double RoundStep(double step) {
  const double power = std::pow(10, std::floor(std::log10(step)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= step * (1 - 1e-9)) return factor * power;
  }
  return 10 * power;
}

}  // namespace

bool HasPlace(Scale scale, double value) {
  return !std::isnan(value) && (scale == Scale::kLinear || value > 0);
}

AxisScale AxisScale::Over(Scale scale, double low, double high, int ticks_wanted, bool rounded) {
  ENGRAM_CHECK(low <= high && HasPlace(scale, low) && HasPlace(scale, high) && ticks_wanted >= 2);
  AxisScale axis;
  axis.scale_ = scale;
  axis.low_ = low;
  axis.high_ = high;
  if (scale == Scale::kLinear) {
    axis.MakeLinearTicks(ticks_wanted, rounded);
  } else {
    axis.MakeLogTicks(ticks_wanted, rounded);
  }
  return axis;
}

void AxisScale::MakeLinearTicks(int ticks_wanted, bool rounded) {
  // Neighbouring doubles, or one value alone, need some width.
  const double magnitude = std::max(std::abs(low_), std::abs(high_));
  if (high_ - low_ <= 1e-9 * magnitude || magnitude == 0) {
    const double margin = magnitude == 0 ? 1 : magnitude / 2;
    if (low_ != 0) low_ -= margin;
    high_ += margin;
  }
  step_ = RoundStep((high_ - low_) / (ticks_wanted - 1));
  if (rounded) {
    low_ = step_ * std::floor(low_ / step_ + 1e-9);
    high_ = step_ * std::ceil(high_ / step_ - 1e-9);
  }
  const double first = std::ceil(low_ / step_ - 1e-9);
  const double last = std::floor(high_ / step_ + 1e-9);
  for (double i = first; i <= last; ++i) ticks_.push_back(step_ * i);
}

void AxisScale::MakeLogTicks(int ticks_wanted, bool rounded) {
  const bool two = scale_ == Scale::kLog2;
  const auto log = [two](double value) { return two ? std::log2(value) : std::log10(value); };
  const auto power = [two](double exponent) {
    return two ? std::exp2(exponent) : std::pow(10, exponent);
  };
  if (high_ <= low_ * (1 + 1e-9)) {
    low_ /= two ? 2 : 10;
    high_ *= two ? 2 : 10;
  }
  double first = std::floor(log(low_) + 1e-9);
  double last = std::ceil(log(high_) - 1e-9);
  if (!two && log(high_) - log(low_) < 1.7) {
    // Less than two decades: 1, 2 and 5 of each.
    for (double exponent = first; exponent <= last; ++exponent) {
      for (const double factor : {1.0, 2.0, 5.0}) ticks_.push_back(factor * power(exponent));
    }
    // The last below the range and the first above it remain, as ends of a rounded axis.
    while (ticks_.size() > 2 && ticks_[1] <= low_ * (1 + 1e-9)) ticks_.erase(ticks_.begin());
    while (ticks_.size() > 2 && ticks_[ticks_.size() - 2] >= high_ * (1 - 1e-9)) ticks_.pop_back();
  } else {
    const double step = std::max(1.0, std::ceil((last - first) / (ticks_wanted - 1)));
    if (rounded) last = first + step * std::ceil((last - first) / step);
    for (double exponent = first; exponent <= last; exponent += step) {
      ticks_.push_back(power(exponent));
    }
  }
  if (rounded) {
    low_ = ticks_.front();
    high_ = ticks_.back();
  }
  std::erase_if(ticks_,
                [&](double tick) { return tick < low_ * (1 - 1e-9) || tick > high_ * (1 + 1e-9); });
}

double AxisScale::Place(double value) const {
  if (scale_ == Scale::kLinear) return (value - low_) / (high_ - low_);
  return std::log(value / low_) / std::log(high_ / low_);
}

std::vector<std::string> AxisScale::Labels(double factor) const {
  std::vector<std::string> labels;
  const double magnitude = std::max(std::abs(low_), std::abs(high_)) / factor;
  const bool even = scale_ == Scale::kLinear && magnitude < 1e5;
  const double step = step_ / factor;
  const int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  for (const double tick : ticks_) {
    labels.push_back(even ? NumberText(tick / factor, std::min(decimals, 9))
                          : CompactText(tick / factor));
  }
  return labels;
}

}  // namespace engram::bench
