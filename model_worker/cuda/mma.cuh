// Tensor core products of small tiles, m16n8k16, bf16 with fp32 sums, from sm_80 on.
//
// Which lane has what (g = lane / 4, c = lane % 4), two values to a register:
//   a [16][16]  a0: row g, columns 2c, 2c + 1    a1: row g + 8    a2: columns + 8    a3: both
//   b [16][8]   b0: rows 2c, 2c + 1, column g    b1: rows + 8
//   c [16][8]   c0, c1: row g, columns 2c, 2c + 1    c2, c3: row g + 8
#pragma once

#include <cstdint>

namespace engram::gpu {

// c += a b.
__device__ inline void MultiplyAdd(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                   uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// An 8 x 8 tile of bf16, of which each lane has row g, columns 2c and 2c + 1, the other way round:
// row 2c and 2c + 1 of column g.
__device__ inline uint32_t Transposed(uint32_t tile) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(tile));
  return out;
}

}  // namespace engram::gpu
