// E4M3 as CUDA's header has it, on the host.
#pragma once

#include "tests/cuda_on_host/cuda_fp16.h"

enum __nv_fp8_interpretation_t { __NV_E4M3 };

// Exact: every E4M3 number is an fp16 number; 0x7f and 0xff are NaN.
inline __half_raw __nv_cvt_fp8_to_halfraw(uint8_t code, __nv_fp8_interpretation_t /*kind*/) {
  const unsigned sign = unsigned{code & 0x80u} << 8;
  unsigned exponent = code >> 3 & 0xf;
  unsigned fraction = code & 7;
  if ((code & 0x7f) == 0x7f) return {static_cast<uint16_t>(sign | 0x7fff)};
  if (exponent == 0) {
    if (fraction == 0) return {static_cast<uint16_t>(sign)};
    // fraction * 2^-9: normalised, since fp16 reaches further down.
    exponent = 1;
    while ((fraction & 8) == 0) {
      fraction *= 2;
      --exponent;
    }
    fraction &= 7;
  }
  // E4M3's exponents have a bias of 7, fp16's of 15.
  return {static_cast<uint16_t>(sign | (exponent + 8) << 10 | fraction << 7)};
}
