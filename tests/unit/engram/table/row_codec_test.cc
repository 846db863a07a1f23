#include "engram/table/row_codec.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace engram {
namespace {

// E4M3FN by its definition, in double.
double SlowE4M3(uint32_t bits) {
  const double sign = (bits & 0x80) != 0 ? -1.0 : 1.0;
  const auto exponent = static_cast<int>((bits >> 3) & 15);
  const double mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::nan("");
  return exponent == 0 ? sign * std::ldexp(mantissa / 8, -6)
                       : sign * std::ldexp(1 + mantissa / 8, exponent - 7);
}

bool SameFloat(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

TEST(RowCodecTest, E4M3HasItsValues) {
  EXPECT_EQ(DecodeE4M3(0x00), 0.0f);
  EXPECT_EQ(DecodeE4M3(0x01), 0x1p-9f);
  EXPECT_EQ(DecodeE4M3(0x38), 1.0f);
  EXPECT_EQ(DecodeE4M3(0x7e), 448.0f);
  EXPECT_EQ(DecodeE4M3(0xfe), -448.0f);
  EXPECT_TRUE(std::isnan(DecodeE4M3(0x7f)));
  EXPECT_TRUE(std::isnan(DecodeE4M3(0xff)));
  for (uint32_t bits = 0; bits < 256; ++bits) {
    EXPECT_TRUE(
        SameFloat(DecodeE4M3(static_cast<uint8_t>(bits)), static_cast<float>(SlowE4M3(bits))))
        << bits;
  }
}

TEST(RowCodecTest, UE8M0IsAPowerOfTwo) {
  for (int bits = 0; bits < 255; ++bits) {
    EXPECT_EQ(DecodeUE8M0(static_cast<uint8_t>(bits)), std::ldexp(1.0f, bits - 127)) << bits;
  }
  EXPECT_TRUE(std::isnan(DecodeUE8M0(255)));
}

TEST(RowCodecTest, Bf16RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // half way, even below
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // half way, even above
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(FloatToBf16(std::bit_cast<float>(0x7f7fffffu)), 0x7f80);  // past the largest: infinity
  EXPECT_EQ(FloatToBf16(-INFINITY), 0xff80);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
}

TEST(RowCodecTest, EveryBf16ComesBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatToBf16(value), bits);
  }
}

TEST(RowCodecTest, EveryF16HasItsValue) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const double sign = (bits & 0x8000) != 0 ? -1.0 : 1.0;
    const auto exponent = static_cast<int>((bits >> 10) & 31);
    const double mantissa = (bits & 0x3ff) / 1024.0;
    double expected = 0;
    if (exponent == 31) {
      expected = mantissa == 0 ? sign * INFINITY : std::nan("");
    } else {
      expected = exponent == 0 ? sign * std::ldexp(mantissa, -14)
                               : sign * std::ldexp(1 + mantissa, exponent - 15);
    }
    ASSERT_TRUE(SameFloat(F16ToFloat(static_cast<uint16_t>(bits)), static_cast<float>(expected)))
        << bits;
  }
}

TEST(RowCodecTest, EveryE4M3ComesBackFromItsValue) {
  for (uint32_t bits = 0; bits < 256; ++bits) {
    const float value = DecodeE4M3(static_cast<uint8_t>(bits));
    if (std::isnan(value)) continue;
    EXPECT_EQ(EncodeE4M3(value), bits);
  }
  EXPECT_EQ(EncodeE4M3(NAN), 0x7f);
}

TEST(RowCodecTest, EncodeE4M3TakesTheNearest) {
  for (uint32_t bits = 0; bits < 0x7e; ++bits) {
    const float low = DecodeE4M3(static_cast<uint8_t>(bits));
    const float high = DecodeE4M3(static_cast<uint8_t>(bits + 1));
    const float middle = (low + high) / 2;  // exact
    EXPECT_EQ(EncodeE4M3(middle), (bits & 1) == 0 ? bits : bits + 1) << bits;
    EXPECT_EQ(EncodeE4M3(std::nextafter(middle, 0.0f)), bits);
    EXPECT_EQ(EncodeE4M3(std::nextafter(middle, 1000.0f)), bits + 1);
    EXPECT_EQ(EncodeE4M3(-middle), ((bits & 1) == 0 ? bits : bits + 1) | 0x80);
  }
  EXPECT_EQ(EncodeE4M3(1e30f), 0x7e);
  EXPECT_EQ(EncodeE4M3(-INFINITY), 0xfe);
  EXPECT_EQ(EncodeE4M3(1e-30f), 0);
}

TEST(RowCodecTest, ScaledRowIsWeightTimesScaleRoundedToBf16ForEveryPair) {
  constexpr uint32_t kValues = 256;
  std::vector<std::byte> row(1 + kValues + kValues / 32);  // 1: rows have any alignment
  std::byte* const unaligned = row.data() + 1;
  for (uint32_t i = 0; i < kValues; ++i) unaligned[i] = static_cast<std::byte>(i);
  std::vector<float> values(kValues);
  for (uint32_t scale = 0; scale < 256; ++scale) {
    for (uint32_t b = 0; b < kValues / 32; ++b) {
      unaligned[kValues + b] = static_cast<std::byte>((scale + b * 37) & 0xff);
    }
    DecodeRow(RowFormat::kF8E4M3ScaleE8M0, unaligned, kValues, values.data());
    for (uint32_t i = 0; i < kValues; ++i) {
      const auto scale_bits = static_cast<uint8_t>((scale + (i / 32) * 37) & 0xff);
      const float product = DecodeE4M3(static_cast<uint8_t>(i)) * DecodeUE8M0(scale_bits);
      ASSERT_TRUE(SameFloat(values[i], Bf16ToFloat(FloatToBf16(product))))
          << "weight " << i << " scale " << int{scale_bits};
    }
  }
}

TEST(RowCodecTest, PlainRowsAreExact) {
  constexpr uint32_t kValues = 77;
  std::vector<std::byte> row(kValues * 4 + 1);
  std::vector<float> values(kValues);
  for (uint32_t i = 0; i < kValues; ++i) {
    const auto bits = static_cast<uint16_t>(i * 401);
    std::memcpy(row.data() + 1 + size_t{i} * 2, &bits, 2);
  }
  DecodeRow(RowFormat::kBf16, row.data() + 1, kValues, values.data());
  for (uint32_t i = 0; i < kValues; ++i) {
    EXPECT_TRUE(SameFloat(values[i], Bf16ToFloat(static_cast<uint16_t>(i * 401))));
  }
  DecodeRow(RowFormat::kF16, row.data() + 1, kValues, values.data());
  for (uint32_t i = 0; i < kValues; ++i) {
    EXPECT_TRUE(SameFloat(values[i], F16ToFloat(static_cast<uint16_t>(i * 401))));
  }
  for (uint32_t i = 0; i < kValues; ++i) {
    const float value = 1.0f / static_cast<float>(i + 1);
    std::memcpy(row.data() + 1 + size_t{i} * 4, &value, 4);
  }
  DecodeRow(RowFormat::kF32, row.data() + 1, kValues, values.data());
  for (uint32_t i = 0; i < kValues; ++i) EXPECT_EQ(values[i], 1.0f / static_cast<float>(i + 1));
}

}  // namespace
}  // namespace engram
