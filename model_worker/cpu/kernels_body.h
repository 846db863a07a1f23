// The bodies of kernels.h, compiled once per instruction set by kernels_{generic,avx2,avx512}.cc.
// Only builtins and names of this anonymous namespace: an inline function of the standard library,
// compiled for AVX-512 here, could be the one that the linker keeps for everybody.
#pragma once

#include "model_worker/cpu/kernels.h"

namespace engram {
namespace {

using Vec = float __attribute__((vector_size(64)));
using VecInt = int32_t __attribute__((vector_size(64)));
constexpr int kLanes = 16;
constexpr float kMinusInfinity = -__builtin_inff();

#define ENGRAM_INLINE static inline __attribute__((always_inline))

ENGRAM_INLINE Vec Load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
ENGRAM_INLINE void Store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof(v)); }
ENGRAM_INLINE Vec Splat(float x) { return x - Vec{}; }
ENGRAM_INLINE VecInt Iota() { return VecInt{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}; }

ENGRAM_INLINE float Sum(Vec v) {
  float lanes[kLanes];
  Store(lanes, v);
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

ENGRAM_INLINE float Max(Vec v) {
  float lanes[kLanes];
  Store(lanes, v);
  float max = lanes[0];
  for (int i = 1; i < kLanes; ++i) max = lanes[i] > max ? lanes[i] : max;
  return max;
}

// exp to about 2 ulp: 2^n times a polynomial in the remainder (the coefficients are those of the
// Taylor series, whose seventh term is below 2^-24 on |r| <= ln 2 / 2).
ENGRAM_INLINE Vec Exp(Vec x) {
  const Vec low = Splat(-87.0f), high = Splat(88.0f);
  x = x > high ? high : x;
  x = x < low ? low : x;
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the mantissa.
  const Vec magic = Splat(12582912.0f);
  const Vec shifted = x * 1.44269504088896341f + magic;
  const Vec n = shifted - magic;
  Vec r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  Vec p = Splat(1.0f / 5040);
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  VecInt exponent;
  __builtin_memcpy(&exponent, &shifted, sizeof(exponent));
  exponent = (exponent - 0x4b400000 + 127) << 23;
  Vec scale;
  __builtin_memcpy(&scale, &exponent, sizeof(scale));
  return p * scale;
}

ENGRAM_INLINE float InverseRms(const float* x, float eps, int n) {
  Vec sum{};
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const Vec v = Load(x + i);
    sum += v * v;
  }
  float total = Sum(sum);
  for (; i < n; ++i) total += x[i] * x[i];
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(n) + eps);
}

void RmsNorm(const float* x, const float* weight, float eps, int n, float* out) {
  const float inverse = InverseRms(x, eps, n);
  for (int i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void NormRotate(const float* x, const float* weight, float eps, int head_dim, const float* cosine,
                const float* sine, float scale, float* out) {
  const float inverse = InverseRms(x, eps, head_dim);
  const int half = head_dim / 2;
  for (int i = 0; i < half; ++i) {
    const float a = x[i] * inverse * weight[i];
    const float b = x[i + half] * inverse * weight[i + half];
    out[i] = (a * cosine[i] - b * sine[i]) * scale;
    out[i + half] = (b * cosine[i] + a * sine[i]) * scale;
  }
}

ENGRAM_INLINE Vec SiluMultiply16(Vec gate, Vec up) { return gate / (1.0f + Exp(-gate)) * up; }

void SiluMultiply(const float* gate, const float* up, int n, float* out) {
  int i = 0;
  for (; i + kLanes <= n; i += kLanes) Store(out + i, SiluMultiply16(Load(gate + i), Load(up + i)));
  if (i == n) return;
  float g[kLanes] = {}, u[kLanes] = {}, o[kLanes];
  __builtin_memcpy(g, gate + i, sizeof(float) * static_cast<unsigned>(n - i));
  __builtin_memcpy(u, up + i, sizeof(float) * static_cast<unsigned>(n - i));
  Store(o, SiluMultiply16(Load(g), Load(u)));
  __builtin_memcpy(out + i, o, sizeof(float) * static_cast<unsigned>(n - i));
}

// Scores of kQueries queries against kBlocks blocks of 16 positions. Each sum runs over head_dim in
// order, whatever the tile.
template <int kQueries, int kBlocks>
ENGRAM_INLINE void ScoreTile(const AttendArgs& args, int block) {
  Vec sum[kQueries][kBlocks] = {};
  const int block_floats = args.head_dim * kLanes;
  const float* keys = args.keys + static_cast<int64_t>(block) * block_floats;
  const float* queries[kQueries];
  for (int q = 0; q < kQueries; ++q) queries[q] = args.queries[q];
  for (int d = 0; d < args.head_dim; ++d) {
    Vec key[kBlocks];
    for (int b = 0; b < kBlocks; ++b) key[b] = Load(keys + b * block_floats + d * kLanes);
    for (int q = 0; q < kQueries; ++q) {
      for (int b = 0; b < kBlocks; ++b) sum[q][b] += queries[q][d] * key[b];
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    float* scores = args.scores + static_cast<int64_t>(q) * args.score_stride;
    for (int b = 0; b < kBlocks; ++b) Store(scores + (block + b) * kLanes, sum[q][b]);
  }
}

// Scores of one query -> exp(score - max), zero from `length` to the end of `blocks`. Gives 1 /
// sum.
ENGRAM_INLINE float SoftmaxRow(float* scores, int length, int blocks) {
  const int whole = length / kLanes;
  const int rest = length % kLanes;
  if (rest != 0) {
    const VecInt keep = Iota() < rest;
    const Vec last = Load(scores + whole * kLanes);
    Store(scores + whole * kLanes, keep ? last : Splat(kMinusInfinity));
  }
  const int used = whole + (rest != 0);
  Vec max = Load(scores);
  for (int b = 1; b < used; ++b) {
    const Vec v = Load(scores + b * kLanes);
    max = v > max ? v : max;
  }
  const Vec shift = Splat(Max(max));
  Vec sum{};
  for (int b = 0; b < used; ++b) {
    const Vec v = Load(scores + b * kLanes);
    const Vec e = Exp(v - shift);
    const Vec p = v == kMinusInfinity ? Vec{} : e;
    Store(scores + b * kLanes, p);
    sum += p;
  }
  for (int b = used; b < blocks; ++b) Store(scores + b * kLanes, Vec{});
  return 1.0f / Sum(sum);
}

// Outputs [dim, dim + 16 * kVecs) of kQueries queries.
template <int kQueries, int kVecs>
ENGRAM_INLINE void WeighValues(const AttendArgs& args, int positions, const float* inverse_sums,
                               int dim) {
  Vec sum[kQueries][kVecs] = {};
  const float* values = args.values + dim;
  for (int position = 0; position < positions; ++position) {
    Vec value[kVecs];
    for (int v = 0; v < kVecs; ++v) value[v] = Load(values + v * kLanes);
    values += args.value_stride;
    for (int q = 0; q < kQueries; ++q) {
      const float weight = args.scores[static_cast<int64_t>(q) * args.score_stride + position];
      for (int v = 0; v < kVecs; ++v) sum[q][v] += weight * value[v];
    }
  }
  for (int q = 0; q < kQueries; ++q) {
    for (int v = 0; v < kVecs; ++v) {
      const int start = dim + v * kLanes;
      const int wanted = args.head_dim - start < kLanes ? args.head_dim - start : kLanes;
      float lanes[kLanes];
      Store(lanes, sum[q][v] * inverse_sums[q]);
      __builtin_memcpy(args.outputs[q] + start, lanes,
                       sizeof(float) * static_cast<unsigned>(wanted));
    }
  }
}

template <int kQueries>
void AttendQueries(const AttendArgs& args) {
  int positions = 0;
  for (int q = 0; q < kQueries; ++q) {
    positions = args.lengths[q] > positions ? args.lengths[q] : positions;
  }
  const int blocks = (positions + kLanes - 1) / kLanes;
  constexpr int kBlocks = kQueries == 1 ? 4 : 2;
  int block = 0;
  for (; block + kBlocks <= blocks; block += kBlocks) ScoreTile<kQueries, kBlocks>(args, block);
  for (; block < blocks; ++block) ScoreTile<kQueries, 1>(args, block);

  float inverse_sums[kQueries];
  for (int q = 0; q < kQueries; ++q) {
    inverse_sums[q] = SoftmaxRow(args.scores + static_cast<int64_t>(q) * args.score_stride,
                                 args.lengths[q], blocks);
  }
  int dim = 0;
  for (; dim + 4 * kLanes <= args.value_stride; dim += 4 * kLanes) {
    WeighValues<kQueries, 4>(args, positions, inverse_sums, dim);
  }
  for (; dim < args.value_stride; dim += kLanes) {
    WeighValues<kQueries, 1>(args, positions, inverse_sums, dim);
  }
}

void Attend(const AttendArgs& args) {
  switch (args.query_count) {
    case 1:
      AttendQueries<1>(args);
      break;
    case 2:
      AttendQueries<2>(args);
      break;
    case 3:
      AttendQueries<3>(args);
      break;
    default:
      AttendQueries<4>(args);
      break;
  }
}

#undef ENGRAM_INLINE

constexpr Kernels MakeKernels(const char* name) {
  return Kernels{name, RmsNorm, NormRotate, SiluMultiply, Attend};
}

}  // namespace
}  // namespace engram
