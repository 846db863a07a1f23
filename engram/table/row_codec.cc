#include "engram/table/row_codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

namespace engram {
namespace {

constexpr uint32_t kValuesPerScale = 32;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

constexpr float E4M3Value(uint32_t bits) {
  if ((bits & 0x7f) == 0x7f) return kNan;
  const uint32_t exponent = (bits >> 3) & 15;
  const uint32_t mantissa = bits & 7;
  // Subnormal: mantissa * 2^-9; else (8 + mantissa) * 2^(exponent - 10).
  float value = static_cast<float>(exponent == 0 ? mantissa : 8 + mantissa) / 512.0f;
  for (uint32_t e = 1; e < exponent; ++e) value *= 2.0f;
  return (bits & 0x80) != 0 ? -value : value;
}

constexpr std::array<float, 256> MakeE4M3Table() {
  std::array<float, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) table[i] = E4M3Value(i);
  return table;
}
constexpr std::array<float, 256> kE4M3 = MakeE4M3Table();

// Scales for which every E4M3 value times 2^(scale - 127) is a normal number, so exact in bf16:
// 4 significant bits of 8, from 2^-9 * 2^(10 - 127) = 2^-126 to 448 * 2^(246 - 127) < 2^128.
constexpr uint8_t kExactScaleMin = 10;
constexpr uint8_t kExactScaleMax = 246;

void DecodeBlock(const uint8_t* weights, uint8_t scale_bits, float* values) {
  const float scale = DecodeUE8M0(scale_bits);
  if (scale_bits >= kExactScaleMin && scale_bits <= kExactScaleMax) {
    for (uint32_t i = 0; i < kValuesPerScale; ++i) values[i] = kE4M3[weights[i]] * scale;
    return;
  }
  for (uint32_t i = 0; i < kValuesPerScale; ++i) {
    values[i] = Bf16ToFloat(FloatToBf16(kE4M3[weights[i]] * scale));
  }
}

void DecodeF8Portable(const uint8_t* row, uint32_t row_values, float* values) {
  const uint8_t* scales = row + row_values;
  for (uint32_t block = 0; block < row_values / kValuesPerScale; ++block) {
    const uint32_t first = block * kValuesPerScale;
    DecodeBlock(row + first, scales[block], values + first);
  }
}

void DecodeF16Portable(const std::byte* row, uint32_t row_values, float* values) {
  for (uint32_t i = 0; i < row_values; ++i) {
    uint16_t bits;
    std::memcpy(&bits, row + size_t{i} * 2, sizeof(bits));
    values[i] = F16ToFloat(bits);
  }
}

#if defined(__x86_64__)
bool HasAvx2AndF16c() {
  static const bool has = [] {
    // Clang 14's __builtin_cpu_supports knows no "f16c".
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx2") != 0 && __get_cpuid(1, &a, &b, &c, &d) != 0 &&
           (c & bit_F16C) != 0;
  }();
  return has;
}

// An E4M3 byte shifted into a half float is its value * 2^-8, subnormals included; only NaN
// differs (it would read as 480).
__attribute__((target("avx2,f16c"))) void DecodeF8Avx2(const uint8_t* row, uint32_t row_values,
                                                       float* values) {
  const uint8_t* scales = row + row_values;
  const __m128i sign_mask = _mm_set1_epi16(static_cast<int16_t>(0x8000));
  const __m128i magnitude_mask = _mm_set1_epi16(0x3f80);
  const __m256 nan = _mm256_set1_ps(kNan);
  const __m256 not_a_number = _mm256_set1_ps(480.0f / 256.0f);
  const __m256 no_sign = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
  for (uint32_t block = 0; block < row_values / kValuesPerScale; ++block) {
    const uint8_t* weights = row + size_t{block} * kValuesPerScale;
    float* out = values + size_t{block} * kValuesPerScale;
    const uint8_t scale_bits = scales[block];
    if (scale_bits < kExactScaleMin || scale_bits > kExactScaleMax) {
      DecodeBlock(weights, scale_bits, out);
      continue;
    }
    const __m256 scale = _mm256_set1_ps(DecodeUE8M0(static_cast<uint8_t>(scale_bits + 8)));
    for (uint32_t i = 0; i < kValuesPerScale; i += 8) {
      const __m128i bytes =
          _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(weights + i)));
      const __m128i half = _mm_or_si128(_mm_and_si128(_mm_slli_epi16(bytes, 8), sign_mask),
                                        _mm_and_si128(_mm_slli_epi16(bytes, 7), magnitude_mask));
      const __m256 wide = _mm256_cvtph_ps(half);
      const __m256 is_nan = _mm256_cmp_ps(_mm256_and_ps(wide, no_sign), not_a_number, _CMP_EQ_OQ);
      _mm256_storeu_ps(out + i, _mm256_blendv_ps(_mm256_mul_ps(wide, scale), nan, is_nan));
    }
  }
}

__attribute__((target("avx2,f16c"))) void DecodeF16Avx2(const std::byte* row, uint32_t row_values,
                                                        float* values) {
  uint32_t i = 0;
  for (; i + 8 <= row_values; i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + size_t{i} * 2));
    _mm256_storeu_ps(values + i, _mm256_cvtph_ps(half));
  }
  DecodeF16Portable(row + size_t{i} * 2, row_values - i, values + i);
}
#endif

}  // namespace

float DecodeE4M3(uint8_t bits) { return kE4M3[bits]; }

float DecodeUE8M0(uint8_t bits) {
  if (bits == 0xff) return kNan;
  // 2^-127 is subnormal: half of the smallest normal number.
  if (bits == 0) return std::bit_cast<float>(uint32_t{0x00400000});
  return std::bit_cast<float>(uint32_t{bits} << 23);
}

float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

uint16_t FloatToBf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float F16ToFloat(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000u) << 16;
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) {  // infinity and NaN
    return std::bit_cast<float>(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
  }
  if (magnitude < 0x0400u) {  // subnormal: magnitude * 2^-24, exact
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(value) | sign);
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
}

uint16_t FloatToF16(float value) {
  const auto sign = static_cast<uint16_t>(std::signbit(value) ? 0x8000 : 0);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00);
  const float size = std::fabs(value);
  if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00);  // half way past the largest
  if (size < 0x1p-24f / 2) return sign;
  // The spacing of halves around `size`: 2^(exponent - 10), at least the subnormals' 2^-24.
  int exponent = 0;
  (void)std::frexp(size, &exponent);
  const int spacing = std::max(exponent - 1 - 10, -24);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -spacing)));
  return static_cast<uint16_t>(sign + static_cast<uint32_t>(spacing + 24) * 1024 + steps);
}

uint8_t EncodeE4M3(float value) {
  if (std::isnan(value)) return 0x7f;
  const auto sign = static_cast<uint8_t>(std::signbit(value) ? 0x80 : 0);
  const float size = std::fabs(value);
  if (size == 0.0f) return sign;
  if (size >= 448.0f) return sign | 0x7e;
  // The spacing of E4M3 around `size`: 2^(exponent - 3), at least the subnormals' 2^-9.
  int exponent = 0;
  (void)std::frexp(size, &exponent);  // size = f * 2^exponent, f in [0.5, 1)
  const int spacing = std::max(exponent - 1 - 3, -9);
  const auto steps = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, -spacing)));
  // `steps` is 0..16 of that spacing; 8 is the next power of two, so carries fall into place.
  const auto code = static_cast<uint32_t>(spacing + 9) * 8 + steps;
  return static_cast<uint8_t>(sign | std::min(code, uint32_t{0x7e}));
}

void DecodeRow(RowFormat format, const std::byte* row, uint32_t row_values, float* values) {
  switch (format) {
    case RowFormat::kF8E4M3ScaleE8M0: {
      const auto* bytes = reinterpret_cast<const uint8_t*>(row);
#if defined(__x86_64__)
      if (HasAvx2AndF16c()) return DecodeF8Avx2(bytes, row_values, values);
#endif
      return DecodeF8Portable(bytes, row_values, values);
    }
    case RowFormat::kBf16:
      for (uint32_t i = 0; i < row_values; ++i) {
        uint16_t bits;
        std::memcpy(&bits, row + size_t{i} * 2, sizeof(bits));
        values[i] = Bf16ToFloat(bits);
      }
      return;
    case RowFormat::kF16:
#if defined(__x86_64__)
      if (HasAvx2AndF16c()) return DecodeF16Avx2(row, row_values, values);
#endif
      return DecodeF16Portable(row, row_values, values);
    case RowFormat::kF32:
      std::memcpy(values, row, size_t{row_values} * 4);
      return;
  }
}

}  // namespace engram
