// What an Engram layer does to the hidden state: gate, value, short convolution. Sources of the
// formulas: the public demo of the Engram paper, and DeepSeek-V4.1-Flash as released.
//
// Any number G of hyper-connection branches. Plain functions on one token or one sequence:
// thread-safe, no allocation. The matrix product that gives keys and value is the backend's.
#pragma once

#include <cstddef>
#include <cstdint>

#include "model_worker/weights.h"

namespace engram {

// demo: epsilon of the key and query norms (torch's default, the machine epsilon of fp32), and of
// the convolution's norm.
inline constexpr float kDemoNormEps = 1.1920928955078125e-07f;
inline constexpr float kDemoConvEps = 1e-5f;

// v41, one live token (a dead one has gate 0: skip it):
//   s = sum(h q_w k_w key) rsqrt(mean(h^2) + eps) rsqrt(mean(key^2) + eps) / sqrt(d);
//   h += sigmoid(s < 0 ? -r : r) value, r = sqrt(max(|s|, 1e-6)); for each branch.
//   keys_value  [(G + 1)][hidden]: G keys, then the value
//   hidden      [G][hidden] read and written
void FuseV41(const EngramLayerWeights& weights, int32_t hidden_size, float eps,
             const float* keys_value, float* hidden);

// demo, one token: v_g = sigmoid(sign(s) sqrt(max(|s|, 1e-6))) value, with
//   s = <RMSNorm(h_g), RMSNorm(key_g)> / sqrt(d), sign(0) = 0.
//   keys_value  as above, the bias not yet added
//   gated       [G][hidden] written: v_g
void GateDemo(const EngramLayerWeights& weights, int32_t hidden_size, const float* keys_value,
              const float* hidden, float* gated);

// demo, one branch of one token: out = RMSNorm(v_g) with the convolution's norm. Both [hidden].
void NormConvInput(const EngramLayerWeights& weights, int32_t branch, int32_t hidden_size,
                   const float* gated, float* out);

// demo, one token: h += v + SiLU(conv), depthwise and causal.
//   gated    [G * hidden] v of the token
//   window   the token's normalised v; `row_stride` floats further back stands the token before,
//   and
//            so on: (kernel - 1) * dilation rows before `window` are read (zeros before the start)
void ConvolveDemo(const EngramLayerWeights& weights, int32_t hidden_size, int32_t kernel_size,
                  int32_t dilation, const float* gated, const float* window, ptrdiff_t row_stride,
                  float* hidden);

// Rows of normalised v that a sequence's next token needs: (kernel - 1) * dilation.
[[nodiscard]] constexpr int32_t ConvHistoryRows(int32_t kernel_size, int32_t dilation) {
  return (kernel_size - 1) * dilation;
}

}  // namespace engram
