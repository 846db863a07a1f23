#include "bench/number_text.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>

namespace engram::bench {
namespace {

struct PrefixStep {
  const char* text;
  double factor;
};
constexpr std::array<PrefixStep, 8> kSteps = {{{"n", 1e-9},
                                               {"\u00b5", 1e-6},
                                               {"m", 1e-3},
                                               {"", 1},
                                               {"k", 1e3},
                                               {"M", 1e6},
                                               {"G", 1e9},
                                               {"T", 1e12}}};
constexpr size_t kNoPrefix = 3;

// "s" and "s/row", not "steps".
bool IsOf(std::string_view unit, std::string_view symbol) {
  return unit == symbol || (unit.starts_with(symbol) && unit[symbol.size()] == '/');
}

bool IsSymbol(std::string_view unit) {
  return IsOf(unit, "s") || IsOf(unit, "B") || IsOf(unit, "bit");
}

}  // namespace

Prefix PrefixFor(std::string_view unit, double least, double most) {
  size_t low = kNoPrefix;
  size_t high = kNoPrefix;
  if (IsOf(unit, "s")) low = 0;
  if (IsOf(unit, "B") || IsOf(unit, "bit") || unit.ends_with("/s")) high = kSteps.size() - 1;
  size_t step = low;
  // The least shows a digit before the point, unless the greatest then gets too long.
  while (step < high &&
         (least >= kSteps.at(step + 1).factor || most >= 1e4 * kSteps.at(step).factor)) {
    ++step;
  }
  return {kSteps.at(step).text, kSteps.at(step).factor};
}

std::string UnitText(const Prefix& prefix, std::string_view unit) {
  const bool space = !prefix.text.empty() && !IsSymbol(unit);
  return prefix.text + (space ? " " : "") + std::string(unit);
}

std::string NumberText(double value, int decimals) {
  if (std::isnan(value)) return "-";
  std::array<char, 400> buffer{};
  std::snprintf(buffer.data(), buffer.size(), "%.*f", decimals, value);
  std::string text = buffer.data();
  // "-0.0" of a small negative number.
  if (text.find_first_not_of("-0.") == std::string::npos && text[0] == '-') text.erase(0, 1);
  const size_t first = text[0] == '-' ? 1 : 0;
  const size_t point = std::min(text.find('.'), text.size());
  for (size_t at = point; at > first + 3; at -= 3) text.insert(at - 3, ",");
  return text;
}

int DecimalsFor(double value, int significant_digits) {
  const double magnitude = std::abs(value);
  if (!(magnitude > 0)) return 0;
  const auto digits_before = static_cast<int>(std::floor(std::log10(magnitude))) + 1;
  return std::clamp(significant_digits - digits_before, 0, 6);
}

std::string QuantityText(double value, std::string_view unit) {
  if (std::isnan(value)) return "-";
  const double magnitude = std::abs(value);
  const Prefix prefix = PrefixFor(unit, magnitude, magnitude);
  const double shown = value / prefix.factor;
  const bool whole = prefix.factor == 1 && shown == std::floor(shown);
  const int decimals = whole ? 0 : DecimalsFor(shown, unit.empty() ? 4 : 3);
  const std::string unit_text = UnitText(prefix, unit);
  return NumberText(shown, decimals) + (unit_text.empty() ? "" : " ") + unit_text;
}

std::string CompactText(double value) {
  const double magnitude = std::abs(value);
  size_t step = kNoPrefix;
  // Up to 99,999 as it is, for powers of two are known by their digits.
  if (magnitude >= 1e5) {
    while (step + 1 < kSteps.size() && magnitude >= kSteps.at(step + 1).factor) ++step;
  }
  const double shown = value / kSteps.at(step).factor;
  int decimals = shown == std::floor(shown) ? 0 : DecimalsFor(shown, 3);
  std::string text = NumberText(shown, decimals);
  if (text.find('.') != std::string::npos) {
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
  }
  return text + kSteps.at(step).text;
}

}  // namespace engram::bench
