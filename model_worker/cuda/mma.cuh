// What kernels say in PTX, from sm_80 on (tests/cuda_on_host has it in C++): products of small
// tiles on tensor cores, m16n8k16, bf16 with fp32 sums; loads of their tiles; copies into shared
// memory.
//
// Which lane has what (g = lane / 4, c = lane % 4), two values to a register:
//   a [16][16]  a0: row g, columns 2c, 2c + 1    a1: row g + 8    a2: columns + 8    a3: both
//   b [16][8]   b0: rows 2c, 2c + 1, column g    b1: rows + 8
//   c [16][8]   c0, c1: row g, columns 2c, 2c + 1    c2, c3: row g + 8
#pragma once

#include <cstdint>

#include <cuda_bf16.h>

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

// The shared memory that the launch asked for (LaunchWithShared), aligned to 16 bytes.
template <typename T>
__device__ T* DynamicShared() {
  extern __shared__ __align__(16) unsigned char dynamic_shared[];
  return reinterpret_cast<T*>(dynamic_shared);
}

__device__ inline uint32_t SharedAddress(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Copies 16 bytes, or writes zeros; done when WaitCopies says so.
__device__ inline void CopyAsync(__nv_bfloat16* to, const __nv_bfloat16* from, bool real) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(real ? 16 : 0));
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;"); }
template <int kPending>
__device__ void WaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending));
}

// Four 8 x 8 tiles; lane 8 i + r gives where row r of tile i lies. Each lane gets row g, columns 2c
// and 2c + 1, of each tile.
__device__ inline void LoadMatrices(uint32_t (&r)[4], const __nv_bfloat16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}
// The same, of the transposed tiles: rows 2c and 2c + 1 of column g.
__device__ inline void LoadMatricesTransposed(uint32_t (&r)[4], const __nv_bfloat16* p) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(SharedAddress(p)));
}

}  // namespace engram::gpu
