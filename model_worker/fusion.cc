#include "model_worker/fusion.h"

#include <algorithm>
#include <cmath>

namespace engram {
namespace {

constexpr float kGateFloor = 1e-6f;

float Sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

float InverseRms(const float* x, float eps, int32_t n) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int32_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return 1.0f / std::sqrt(sum / static_cast<float>(n) + eps);
}

}  // namespace

void FuseV41(const EngramLayerWeights& weights, int32_t hidden_size, float eps,
             const float* keys_value, float* hidden) {
  const float* value = keys_value + ptrdiff_t{weights.branch_count} * hidden_size;
  for (int32_t g = 0; g < weights.branch_count; ++g) {
    const ptrdiff_t offset = ptrdiff_t{g} * hidden_size;
    const float* key = keys_value + offset;
    const float* query_weight = weights.query_norm.data() + offset;
    const float* key_weight = weights.key_norm.data() + offset;
    float* h = hidden + offset;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int32_t i = 0; i < hidden_size; ++i)
      dot += h[i] * query_weight[i] * key_weight[i] * key[i];
    const float s = dot * InverseRms(h, eps, hidden_size) * InverseRms(key, eps, hidden_size) /
                    std::sqrt(static_cast<float>(hidden_size));
    const float root = std::sqrt(std::max(std::fabs(s), kGateFloor));
    const float gate = Sigmoid(s < 0 ? -root : root);
#pragma omp simd
    for (int32_t i = 0; i < hidden_size; ++i) h[i] += gate * value[i];
  }
}

void GateDemo(const EngramLayerWeights& weights, int32_t hidden_size, const float* keys_value,
              const float* hidden, float* gated) {
  const ptrdiff_t value_offset = ptrdiff_t{weights.branch_count} * hidden_size;
  const float* value = keys_value + value_offset;
  const float* value_bias = weights.bias.data() + value_offset;
  for (int32_t g = 0; g < weights.branch_count; ++g) {
    const ptrdiff_t offset = ptrdiff_t{g} * hidden_size;
    const float* h = hidden + offset;
    float* out = gated + offset;
    // `out` holds the key with its bias until the gate is known.
#pragma omp simd
    for (int32_t i = 0; i < hidden_size; ++i) {
      out[i] = keys_value[offset + i] + weights.bias[static_cast<size_t>(offset + i)];
    }
    const float query_inverse = InverseRms(h, kDemoNormEps, hidden_size);
    const float key_inverse = InverseRms(out, kDemoNormEps, hidden_size);
    const float* query_weight = weights.query_norm.data() + offset;
    const float* key_weight = weights.key_norm.data() + offset;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int32_t i = 0; i < hidden_size; ++i) {
      dot += (h[i] * query_inverse * query_weight[i]) * (out[i] * key_inverse * key_weight[i]);
    }
    const float s = dot / std::sqrt(static_cast<float>(hidden_size));
    const float root = std::sqrt(std::max(std::fabs(s), kGateFloor));
    const float gate = Sigmoid(s == 0 ? 0.0f : std::copysign(root, s));
#pragma omp simd
    for (int32_t i = 0; i < hidden_size; ++i) out[i] = gate * (value[i] + value_bias[i]);
  }
}

void NormConvInput(const EngramLayerWeights& weights, int32_t branch, int32_t hidden_size,
                   const float* gated, float* out) {
  const float* weight = weights.conv_norm.data() + ptrdiff_t{branch} * hidden_size;
  const float inverse = InverseRms(gated, kDemoConvEps, hidden_size);
#pragma omp simd
  for (int32_t i = 0; i < hidden_size; ++i) out[i] = gated[i] * inverse * weight[i];
}

void ConvolveDemo(const EngramLayerWeights& weights, int32_t hidden_size, int32_t kernel_size,
                  int32_t dilation, const float* gated, const float* window, ptrdiff_t row_stride,
                  float* hidden) {
  const int32_t channels = weights.branch_count * hidden_size;
  for (int32_t c = 0; c < channels; ++c) {
    float sum = 0;
    // Tap kernel - 1 is the token itself, tap 0 the furthest back.
    for (int32_t tap = 0; tap < kernel_size; ++tap) {
      const ptrdiff_t back = ptrdiff_t{kernel_size - 1 - tap} * dilation;
      sum += weights.conv[static_cast<size_t>(c) * static_cast<size_t>(kernel_size) +
                          static_cast<size_t>(tap)] *
             window[c - back * row_stride];
    }
    hidden[c] += gated[c] + sum * Sigmoid(sum);
  }
}

}  // namespace engram
