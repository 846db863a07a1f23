// Row bytes -> numbers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "engram/table/table_layout.h"

namespace engram {

// E4M3FN (no infinities, 0x7f and 0xff are NaN) to float. Thread-safe.
[[nodiscard]] float DecodeE4M3(uint8_t bits);
// UE8M0: 2^(bits - 127); 255 is NaN.
[[nodiscard]] float DecodeUE8M0(uint8_t bits);
[[nodiscard]] float Bf16ToFloat(uint16_t bits);
// Round to nearest even; NaN stays NaN.
[[nodiscard]] uint16_t FloatToBf16(float value);
[[nodiscard]] float F16ToFloat(uint16_t bits);
// Round to nearest even, past the largest to infinity; NaN stays NaN. For make-model.
[[nodiscard]] uint16_t FloatToF16(float value);
// The nearest E4M3FN (round to nearest even, saturating at +-448); NaN -> 0x7f. For make-model.
[[nodiscard]] uint8_t EncodeE4M3(float value);

// Decodes one row's values.
//   row     [RowBytes(format, row_values)] bytes, any alignment
//   values  [row_values] written. kF8E4M3ScaleE8M0: fp8 * 2^(scale - 127), rounded to bf16 and
//           widened again; the other formats are exact.
void DecodeRow(RowFormat format, const std::byte* row, uint32_t row_values, float* values);

}  // namespace engram
