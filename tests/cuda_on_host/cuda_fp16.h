// fp16 as CUDA's header has it, on the host.
#pragma once

#include "tests/cuda_on_host/cuda_runtime.h"

struct __half_raw {
  uint16_t x;
};
struct __half {
  __half() = default;
  explicit __half(__half_raw raw) : bits(raw.x) {}
  uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = value.bits >> 10 & 0x1f;
  const int fraction = value.bits & 0x3ff;
  float magnitude;
  if (exponent == 0x1f) {
    magnitude = fraction == 0 ? INFINITY : NAN;
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<float>(fraction), -24);
  } else {
    magnitude = std::ldexp(static_cast<float>(fraction + 0x400), exponent - 25);
  }
  return (value.bits & 0x8000) != 0 ? -magnitude : magnitude;
}
