#include "tools/seeded_values.h"

#include <array>
#include <cmath>
#include <memory>

#include "engram/table/row_codec.h"

namespace engram {
namespace {

constexpr size_t kQuantiles = 1u << 16;
constexpr size_t kE4M3Quantiles = 1u << 12;
constexpr uint32_t kScaleLow = 126;  // 2^-1; four scales from here

// The standard normal's quantile at `p` in (0, 1), by bisection of its distribution function.
double NormalQuantile(double p) {
  double low = -10;
  double high = 10;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (0.5 * std::erfc(-middle / std::sqrt(2.0)) < p ? low : high) = middle;
  }
  return (low + high) / 2;
}

// Drawing one entry of these at random draws a standard normal.
const std::array<float, kQuantiles>& NormalTable() {
  static const auto table = [] {
    auto values = std::make_unique<std::array<float, kQuantiles>>();
    for (size_t i = 0; i < kQuantiles / 2; ++i) {
      const auto value =
          static_cast<float>(NormalQuantile((static_cast<double>(i) + 0.5) / kQuantiles));
      (*values)[i] = value;
      (*values)[kQuantiles - 1 - i] = -value;
    }
    return values;
  }();
  return *table;
}

const std::array<std::byte, kE4M3Quantiles>& E4M3Table() {
  static const auto table = [] {
    std::array<std::byte, kE4M3Quantiles> values{};
    for (size_t i = 0; i < kE4M3Quantiles; ++i) {
      const double p = (static_cast<double>(i) + 0.5) / kE4M3Quantiles;
      values[i] = static_cast<std::byte>(EncodeE4M3(static_cast<float>(NormalQuantile(p))));
    }
    return values;
  }();
  return table;
}

}  // namespace

uint64_t TensorSeed(uint64_t seed, std::string_view tensor_name) {
  uint64_t hash = 0xcbf29ce484222325ull;  // FNV-1a
  for (const char c : tensor_name) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  return SeededWord(hash, seed);
}

void FillNormal(uint64_t seed, uint64_t first, float mean, float deviation,
                std::span<float> values) {
  const auto& table = NormalTable();
  uint64_t counter = first / kNormalsPerWord;
  for (size_t i = 0; i < values.size(); i += kNormalsPerWord) {
    uint64_t word = SeededWord(seed, counter++);
    const size_t count = std::min(kNormalsPerWord, values.size() - i);
    for (size_t j = 0; j < count; ++j, word >>= 16) {
      values[i + j] = mean + deviation * table[word & 0xffff];
    }
  }
}

void FillE4M3(uint64_t seed, uint64_t first, std::span<std::byte> values) {
  const auto& table = E4M3Table();
  uint64_t counter = first / kE4M3PerWord;
  size_t i = 0;
  for (; i + kE4M3PerWord <= values.size(); i += kE4M3PerWord) {
    const uint64_t word = SeededWord(seed, counter++);
    values[i] = table[word & 0xfff];
    values[i + 1] = table[word >> 12 & 0xfff];
    values[i + 2] = table[word >> 24 & 0xfff];
    values[i + 3] = table[word >> 36 & 0xfff];
    values[i + 4] = table[word >> 48 & 0xfff];
  }
  uint64_t word = SeededWord(seed, counter);
  for (; i < values.size(); ++i, word >>= 12) values[i] = table[word & 0xfff];
}

void FillScales(uint64_t seed, uint64_t first, std::span<std::byte> values) {
  uint64_t counter = first / kScalesPerWord;
  for (size_t i = 0; i < values.size(); i += kScalesPerWord) {
    uint64_t word = SeededWord(seed, counter++);
    const size_t count = std::min(kScalesPerWord, values.size() - i);
    for (size_t j = 0; j < count; ++j, word >>= 8) {
      values[i + j] = static_cast<std::byte>(kScaleLow + (word & 3));
    }
  }
}

}  // namespace engram
