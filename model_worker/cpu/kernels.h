// The loops of the CPU backend beside the matrix products, once for each instruction set.
#pragma once

#include <cstdint>

namespace engram {

// Positions share a block of the K cache: [position / 16][head_dim][16], so that a score needs no
// sum across lanes.
inline constexpr int kPositionBlock = 16;
// Queries that one Attend call takes at most.
inline constexpr int kAttendQueriesMax = 4;

// Some queries that share one KV head of one sequence.
struct AttendArgs {
  int query_count = 0;          // 1..kAttendQueriesMax
  const float* const* queries;  // [query_count] -> [head_dim], already scaled
  const int* lengths;           // [query_count] positions attended: 0..length-1; length >= 1
  float* const* outputs;        // [query_count] -> [head_dim]
  const float* keys;            // [position / 16][head_dim][16]
  const float* values;          // [position][value_stride]
  int head_dim = 0;
  int value_stride = 0;  // head_dim rounded up to 16
  float* scores;         // [query_count][score_stride] scratch
  int score_stride = 0;  // a multiple of 16, at least the longest length
};

// A result depends on its own input alone: the same bits whatever is computed beside it.
struct Kernels {
  const char* name;
  // out = x / sqrt(mean(x^2) + eps) * weight; x and out [n], may be the same.
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  // RMSNorm of one head, then Hugging Face's half rotation, then times `scale`; out [head_dim].
  //   cosine, sine  [head_dim / 2] of the position
  void (*norm_rotate)(const float* x, const float* weight, float eps, int head_dim,
                      const float* cosine, const float* sine, float scale, float* out);
  // out = gate / (1 + exp(-gate)) * up, [n]
  void (*silu_multiply)(const float* gate, const float* up, int n, float* out);
  // Softmax attention.
  void (*attend)(const AttendArgs& args);
};

// The best that this CPU has.
[[nodiscard]] const Kernels& CpuKernels();

// Null where the CPU or the build does not have it.
[[nodiscard]] const Kernels* GenericKernels();
[[nodiscard]] const Kernels* Avx2Kernels();
[[nodiscard]] const Kernels* Avx512Kernels();

}  // namespace engram
