// model_worker/cuda/mma.cuh on the host: what is PTX there, in C++.
#pragma once

#include "tests/cuda_on_host/cuda_bf16.h"

namespace engram::gpu {

inline uint16_t HalfOf(uint32_t pair, unsigned half) {
  return static_cast<uint16_t>(pair >> 16 * half);
}
inline uint32_t PairOf(uint16_t low, uint16_t high) { return uint32_t{high} << 16 | low; }

// c += a b.
inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  struct Fragments {
    uint32_t a[4];
    uint32_t b[2];
  };
  const Fragments own{{a[0], a[1], a[2], a[3]}, {b0, b1}};
  cuda_on_host::Share(own, [&](auto of) {
    const unsigned g = cuda_on_host::Lane() / 4, column = cuda_on_host::Lane() % 4 * 2;
    for (unsigned at = 0; at < 4; ++at) {
      const Fragments x = of(g * 4 + at);
      const Fragments y[2] = {of(column * 4 + at), of((column + 1) * 4 + at)};
      for (unsigned i = 0; i < 4; ++i) {
        for (unsigned k = 0; k < 4; ++k) {  // 2 at, 2 at + 1, and 8 more
          c[i] += __bfloat162float({HalfOf(x.a[i / 2 + k / 2 * 2], k % 2)}) *
                  __bfloat162float({HalfOf(y[i % 2].b[k / 2], k % 2)});
        }
      }
    }
  });
}

inline uint32_t Transposed(uint32_t tile) {
  uint32_t out = 0;
  cuda_on_host::Share(tile, [&](auto of) {
    const unsigned g = cuda_on_host::Lane() / 4, row = cuda_on_host::Lane() % 4 * 2;
    out = PairOf(HalfOf(of(row * 4 + g / 2), g % 2), HalfOf(of((row + 1) * 4 + g / 2), g % 2));
  });
  return out;
}

template <typename T>
T* DynamicShared() {
  return reinterpret_cast<T*>(engram_dynamic_shared.data());
}

inline void CopyAsync(__nv_bfloat16* to, const __nv_bfloat16* from, bool real) {
  if (real) {
    std::memcpy(to, from, 16);
  } else {
    std::memset(to, 0, 16);
  }
}
inline void CommitCopies() {}
template <int kPending>
void WaitCopies() {}

inline void LoadMatrices(uint32_t (&r)[4], const __nv_bfloat16* p) {
  cuda_on_host::Share(p, [&](auto of) {
    const unsigned g = cuda_on_host::Lane() / 4, column = cuda_on_host::Lane() % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      const __nv_bfloat16* row = of(8 * i + g);
      r[i] = PairOf(row[column].bits, row[column + 1].bits);
    }
  });
}
inline void LoadMatricesTransposed(uint32_t (&r)[4], const __nv_bfloat16* p) {
  cuda_on_host::Share(p, [&](auto of) {
    const unsigned g = cuda_on_host::Lane() / 4, row = cuda_on_host::Lane() % 4 * 2;
    for (unsigned i = 0; i < 4; ++i) {
      r[i] = PairOf(of(8 * i + row)[g].bits, of(8 * i + row + 1)[g].bits);
    }
  });
}

}  // namespace engram::gpu
