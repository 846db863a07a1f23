// A model's weights on the GPU.
#pragma once

#include <cstdint>
#include <vector>

#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/cuda/device_memory.h"
#include "model_worker/cuda/kernels.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram::gpu {

// Matrices are [outputs][inputs]; those with the same input are one.
struct DeviceLayer {
  DeviceArray<float> input_norm, q_norm, k_norm, post_attention_norm;
  DeviceArray<Bf16> qkv;      // q, k, v
  DeviceArray<Bf16> o;        // [hidden][heads * head_dim]
  DeviceArray<Bf16> gate_up;  // gate, up
  DeviceArray<Bf16> down;     // [hidden][intermediate]
};

struct DeviceEngramLayer {
  int32_t layer_id = 0;
  DeviceArray<Bf16> keys_value;     // [2 * hidden][engram values]
  DeviceArray<float> query_key;     // [hidden] the product of both norms' weights
  DeviceArray<float> bias;          // demo: [2 * hidden]
  DeviceArray<float> conv_norm;     // demo: [hidden]
  DeviceArray<float> conv;          // demo: [hidden][kernel]
  DeviceArray<float> conv_history;  // demo: [slots][(kernel - 1) * dilation][hidden]
};

struct DeviceWeights {
  DeviceArray<Bf16> embedding;  // [vocabulary][hidden]
  DeviceArray<Bf16> lm_head;    // empty: tied to the embedding
  DeviceArray<float> final_norm;
  std::vector<DeviceLayer> layers;
  std::vector<DeviceEngramLayer> engram;  // in the config's order
};

// Rounds matrices to bf16 on the current device; frees the originals as it goes.
// ERRORS: kResourceExhausted (GPU memory), kInternal.
[[nodiscard]] Result<DeviceWeights> UploadWeights(ModelWeights weights, const ModelConfig& config,
                                                  const Backend::Limits& limits);

}  // namespace engram::gpu
