// Numbers for people: SI prefixes, thousands, as many digits as say something.
#pragma once

#include <string>
#include <string_view>

namespace engram::bench {

// "M" and 1e6; "" and 1.
struct Prefix {
  std::string text;
  double factor = 1;
};

// The one prefix for values whose least and greatest magnitude (zeros aside) are these. Seconds get
// those below one, bytes and rates those above; counts and ratios none.
[[nodiscard]] Prefix PrefixFor(std::string_view unit, double least, double most);

// "ms", "M rows/s", "GB/s", "tokens".
[[nodiscard]] std::string UnitText(const Prefix& prefix, std::string_view unit);

// "12,288.50". A NaN is "-".
[[nodiscard]] std::string NumberText(double value, int decimals);

// Decimals that show `value` with as many significant digits, at most 6; 0 for whole numbers of a
// count.
[[nodiscard]] int DecimalsFor(double value, int significant_digits);

// One value with its unit, three or four digits: "33.1 µs", "5.18 M rows/s", "4,096 tokens".
[[nodiscard]] std::string QuantityText(double value, std::string_view unit);

// Short, for the side of an axis: "12", "0.5", "131k", "2M".
[[nodiscard]] std::string CompactText(double value);

}  // namespace engram::bench
