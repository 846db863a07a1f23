// The Transformer's state on the GPU, and what enqueues its layers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <cuda_runtime_api.h>

#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/cuda/device_memory.h"
#include "model_worker/cuda/device_ranks.h"
#include "model_worker/cuda/device_weights.h"
#include "model_worker/cuda/kernels.h"
#include "model_worker/cuda/layer_segments.h"
#include "model_worker/cuda/matmul.h"
#include "model_worker/cuda/row_staging.h"
#include "model_worker/cuda/step_inputs.h"
#include "model_worker/model_config.h"

namespace engram::gpu {

// Tokens of a step whose staged rows are decoded in one launch.
struct RowsPart {
  const std::byte* table = nullptr;  // null = rows are staged; else row ids, of rows that are here
  size_t offset = 0;                 // of its first row, or id, in the staged bytes
  size_t bytes = 0;
  uint32_t first = 0;  // token of the step
  uint32_t tokens = 0;
  uint32_t rows = 0;  // of the step: tokens, and behind the last token its padding
};

// Owns weights, KV cache and scratch. One thread drives it, on one stream. Every method is
// asynchronous, allocates nothing and, but for DecodeRows, may be captured: its pointers depend on
// the step's counts alone.
class GpuTransformer {
 public:
  struct Options {
    Backend::Limits limits;
    uint32_t pages_per_slot = 0;
    uint32_t page_count = 0;
    bool computes_logits = true;
    // Several ranks: attention's and the MLP's outputs are sums over all of them. One of the ranks
    // adds its own to the residual stream, the others set theirs, and the sum of all is the new
    // residual stream on each. OWNERSHIP: outlives the transformer.
    DeviceRanks* ranks = nullptr;
    bool adds_residual = true;
  };
  // ERRORS: kResourceExhausted (GPU memory), kInternal.
  [[nodiscard]] static Result<std::unique_ptr<GpuTransformer>> Create(const ModelConfig& config,
                                                                      ModelWeights weights,
                                                                      const Options& options);

  // Where a step's inputs (step_inputs.h) must have been copied before its first segment.
  [[nodiscard]] int32_t* inputs() { return inputs_.data(); }
  // Staged rows of an Engram layer -> bf16 values, before its segment: all parts of the step.
  [[nodiscard]] Status DecodeRows(const RowStaging::Staged& staged, const RowsPart& part,
                                  cudaStream_t stream);
  [[nodiscard]] Status EnqueueSegment(const LayerSegment& segment, const StepCounts& counts,
                                      cudaStream_t stream);
  // Draws from the logits of the step that was enqueued last: `count` tokens, by `draws`, into
  // `tokens`. OWNERSHIP: both are pinned memory, which the GPU reads and writes where it is: the
  // caller's, until the stream is through.
  [[nodiscard]] Status Sample(const DeviceDraw* draws, uint32_t count, uint32_t vocabulary,
                              int32_t* tokens, cudaStream_t stream);
  // [counts.logits][vocabulary], of the step that was enqueued last.
  [[nodiscard]] const float* logits() const { return logits_.data(); }

  [[nodiscard]] const DeviceWeights& weights() const { return weights_; }

 private:
  // A step's arrays on the device.
  struct Inputs {
    RowPlaces places;
    DemoParts parts;
    const int32_t* tokens;
    const int32_t* decode_rows;
    const int32_t* tile_rows;
    const int32_t* tile_lengths;
    const int32_t* logit_rows;
    const int32_t* page_indices;
    const int32_t* page_values;
  };

  GpuTransformer(const ModelConfig& config, const Options& options);
  [[nodiscard]] Status Allocate();
  [[nodiscard]] Status AllocateEngram();
  [[nodiscard]] Status UploadRope();
  [[nodiscard]] Inputs InputsOf(const StepCounts& counts) const;
  [[nodiscard]] Status EnqueueFusion(int32_t engram_index, const StepCounts& counts,
                                     const Inputs& inputs, cudaStream_t stream);
  [[nodiscard]] Status EnqueueLayer(int32_t layer, const StepCounts& counts, const Inputs& inputs,
                                    cudaStream_t stream);
  // hidden += x W^T over all ranks.
  [[nodiscard]] Status AddToHidden(uint32_t rows, uint32_t inputs, const Bf16* x,
                                   const Bf16* weights, cudaStream_t stream);
  [[nodiscard]] Status EnqueueLogits(const StepCounts& counts, const Inputs& inputs,
                                     cudaStream_t stream);
  [[nodiscard]] KvCache CacheOf(int32_t layer);

  ModelConfig config_;
  Options options_;
  HeadShape heads_;
  uint32_t hidden_size_ = 0, intermediate_ = 0;
  RowFormat row_format_ = RowFormat::kF8E4M3ScaleE8M0;
  DeviceWeights weights_;
  std::unique_ptr<Matmuls> matmuls_;

  DeviceArray<Bf16> keys_, values_;   // [layers][pages][kv_heads][kPageTokens][head_dim]
  DeviceArray<int32_t> page_table_;   // [slots][pages_per_slot]
  DeviceArray<float> cosine_, sine_;  // [positions][head_dim / 2]
  DeviceArray<int32_t> inputs_;

  // Scratch of one step, [rows][...].
  DeviceArray<float> hidden_;                // the residual stream
  DeviceArray<Bf16> normed_;                 // [hidden]
  DeviceArray<Bf16> qkv_;                    // [(heads + 2 kv_heads) * head_dim]
  DeviceArray<Bf16> attended_;               // [heads * head_dim]
  DeviceArray<Bf16> gate_up_;                // [2 * intermediate]
  DeviceArray<Bf16> activated_;              // [intermediate]
  DeviceArray<float> partials_;              // of decode attention
  DeviceArray<float> logits_;                // [logit rows][vocabulary]
  DeviceArray<Bf16> engram_values_;          // [engram values]
  DeviceArray<Bf16> keys_value_;             // [2 * hidden]
  DeviceArray<uint8_t> dead_;                // []
  DeviceArray<float> gated_, gated_normed_;  // demo: [hidden]
};

}  // namespace engram::gpu
