#include "model_worker/cuda/gpu_transformer.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

namespace engram::gpu {

#define ENGRAM_GPU_ALLOCATE(array, count, what)                                \
  do {                                                                         \
    auto made = std::remove_cvref_t<decltype(array)>::Create((count), (what)); \
    if (!made.has_value()) return std::move(made).error();                     \
    (array) = *std::move(made);                                                \
  } while (false)

GpuTransformer::GpuTransformer(const ModelConfig& config, const Options& options)
    : config_(config), options_(options) {
  heads_.heads = static_cast<uint32_t>(config.head_count);
  heads_.kv_heads = static_cast<uint32_t>(config.kv_head_count);
  heads_.head_dim = static_cast<uint32_t>(config.head_dim);
  hidden_size_ = static_cast<uint32_t>(config.hidden_size);
  intermediate_ = static_cast<uint32_t>(config.intermediate_size);
}

Result<std::unique_ptr<GpuTransformer>> GpuTransformer::Create(const ModelConfig& config,
                                                               ModelWeights weights,
                                                               const Options& options) {
  std::unique_ptr<GpuTransformer> made(new GpuTransformer(config, options));
  made->row_format_ = weights.row_format;
  ENGRAM_ASSIGN_OR_RETURN(made->weights_,
                          UploadWeights(std::move(weights), config, options.limits));
  ENGRAM_ASSIGN_OR_RETURN(made->matmuls_, Matmuls::Create());
  ENGRAM_TRY(made->UploadRope());
  ENGRAM_TRY(made->Allocate());
  if (!made->weights_.engram.empty()) ENGRAM_TRY(made->AllocateEngram());
  return made;
}

Status GpuTransformer::UploadRope() {
  const size_t half = heads_.head_dim / 2;
  const size_t positions = options_.limits.sequence_tokens_max;
  std::vector<float> cosine(positions * half), sine(positions * half);
  for (size_t i = 0; i < half; ++i) {
    // Rounded to float where Hugging Face does: the frequency, and its product with the position.
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(heads_.head_dim);
    const auto frequency =
        static_cast<float>(1.0 / std::pow(config_.rope_theta, static_cast<double>(exponent)));
    for (size_t position = 0; position < positions; ++position) {
      const float angle = static_cast<float>(position) * frequency;
      cosine[position * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sine[position * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
  ENGRAM_GPU_ALLOCATE(cosine_, cosine.size(), "RoPE's table");
  ENGRAM_GPU_ALLOCATE(sine_, sine.size(), "RoPE's table");
  ENGRAM_CUDA_TRY(
      cudaMemcpy(cosine_.data(), cosine.data(), cosine_.bytes(), cudaMemcpyHostToDevice),
      "loading RoPE's table");
  ENGRAM_CUDA_TRY(cudaMemcpy(sine_.data(), sine.data(), sine_.bytes(), cudaMemcpyHostToDevice),
                  "loading RoPE's table");
  return {};
}

Status GpuTransformer::Allocate() {
  const Backend::Limits& limits = options_.limits;
  const size_t rows = RowBucket(limits.step_tokens_max);
  const size_t cache = size_t{options_.page_count} * heads_.kv_heads * kPageTokens *
                       heads_.head_dim * static_cast<size_t>(config_.layer_count);
  ENGRAM_GPU_ALLOCATE(keys_, cache, "the K cache (fewer sequences or positions need less)");
  ENGRAM_GPU_ALLOCATE(values_, cache, "the V cache (fewer sequences or positions need less)");
  ENGRAM_GPU_ALLOCATE(page_table_, size_t{limits.sequences_max} * options_.pages_per_slot,
                      "the page table");
  ENGRAM_GPU_ALLOCATE(inputs_, StepIntsMax(limits), "a step's inputs");
  const size_t width = heads_.qkv_width();
  const size_t heads_width = size_t{heads_.heads} * heads_.head_dim;
  ENGRAM_GPU_ALLOCATE(hidden_, rows * hidden_size_, "the residual stream");
  ENGRAM_GPU_ALLOCATE(normed_, rows * hidden_size_, "activations");
  ENGRAM_GPU_ALLOCATE(qkv_, rows * width, "activations");
  ENGRAM_GPU_ALLOCATE(attended_, rows * heads_width, "activations");
  ENGRAM_GPU_ALLOCATE(gate_up_, rows * 2 * intermediate_, "activations");
  ENGRAM_GPU_ALLOCATE(activated_, rows * intermediate_, "activations");
  const uint32_t sequences = std::min(limits.sequences_max, limits.step_tokens_max);
  ENGRAM_GPU_ALLOCATE(partials_,
                      DecodePartialsMax(sequences, heads_.kv_heads, limits.sequence_tokens_max) *
                          heads_.heads * (heads_.head_dim + 2),
                      "decode attention");
  ENGRAM_GPU_ALLOCATE(logits_,
                      size_t{RowBucket(sequences)} * static_cast<size_t>(config_.vocabulary_size),
                      "logits");
  // Padding rows are computed like others, from whatever is there: it should be numbers.
  ENGRAM_CUDA_TRY(cudaMemset(attended_.data(), 0, attended_.bytes()), "clearing activations");
  return {};
}

Status GpuTransformer::AllocateEngram() {
  const size_t rows = RowBucket(options_.limits.step_tokens_max);
  ENGRAM_GPU_ALLOCATE(engram_values_, rows * static_cast<size_t>(config_.engram_values()),
                      "Engram values");
  ENGRAM_GPU_ALLOCATE(keys_value_, rows * 2 * hidden_size_, "Engram keys and values");
  ENGRAM_GPU_ALLOCATE(dead_, rows, "a dead mask");
  if (config_.engram->variant == Variant::kDemo) {
    ENGRAM_GPU_ALLOCATE(gated_, rows * hidden_size_, "Engram's gated values");
    ENGRAM_GPU_ALLOCATE(gated_normed_, rows * hidden_size_, "Engram's gated values");
  }
  return {};
}

GpuTransformer::Inputs GpuTransformer::InputsOf(const StepCounts& counts) const {
  const StepOffsets at = PlaceStep(counts);
  const int32_t* base = inputs_.data();
  Inputs inputs{};
  inputs.places = {base + at.slots, base + at.positions};
  inputs.parts = {base + at.row_parts, base + at.part_slots, base + at.part_begins,
                  base + at.part_lengths};
  inputs.tokens = base + at.tokens;
  inputs.decode_rows = base + at.decode_rows;
  inputs.tile_rows = base + at.tile_rows;
  inputs.tile_lengths = base + at.tile_lengths;
  inputs.logit_rows = base + at.logit_rows;
  inputs.page_indices = base + at.page_indices;
  inputs.page_values = base + at.page_values;
  return inputs;
}

KvCache GpuTransformer::CacheOf(int32_t layer) {
  const size_t offset = size_t{options_.page_count} * heads_.kv_heads * kPageTokens *
                        heads_.head_dim * static_cast<size_t>(layer);
  return {keys_.data() + offset, values_.data() + offset, page_table_.data(),
          options_.pages_per_slot};
}

Status GpuTransformer::DecodeRows(const RowStaging::Staged& staged, const RowsPart& part,
                                  cudaStream_t stream) {
  StagedRows rows{staged.rows + part.offset,
                  staged.dead == nullptr ? nullptr : staged.dead + part.first,
                  part.tokens,
                  static_cast<uint32_t>(config_.engram_columns()),
                  config_.engram->row_values,
                  row_format_};
  if (part.table != nullptr) {
    rows.ids = reinterpret_cast<const uint32_t*>(rows.staged);
    rows.staged = part.table;
  }
  Bf16* const values =
      engram_values_.data() + size_t{part.first} * static_cast<size_t>(config_.engram_values());
  return CudaStatus(LaunchDecodeRows(rows, part.rows, values, dead_.data() + part.first, stream),
                    "decoding Engram rows");
}

Status GpuTransformer::EnqueueSegment(const LayerSegment& segment, const StepCounts& counts,
                                      cudaStream_t stream) {
  const Inputs inputs = InputsOf(counts);
  if (segment.first) {
    ENGRAM_CUDA_TRY(LaunchSetPages(inputs.page_indices, inputs.page_values, counts.pages,
                                   page_table_.data(), stream),
                    "updating the page table");
    ENGRAM_CUDA_TRY(LaunchEmbed(inputs.tokens, weights_.embedding.data(), counts.rows, hidden_size_,
                                hidden_.data(), stream),
                    "embedding tokens");
  }
  if (segment.engram_index >= 0) {
    ENGRAM_RETURN_IF_ERROR(EnqueueFusion(segment.engram_index, counts, inputs, stream));
  }
  for (int32_t layer = segment.begin; layer < segment.end; ++layer) {
    ENGRAM_RETURN_IF_ERROR(EnqueueLayer(layer, counts, inputs, stream));
  }
  if (!segment.last || counts.logits == 0 || !options_.computes_logits) return {};
  return EnqueueLogits(counts, inputs, stream);
}

Status GpuTransformer::EnqueueFusion(int32_t engram_index, const StepCounts& counts,
                                     const Inputs& inputs, cudaStream_t stream) {
  DeviceEngramLayer& layer = weights_.engram[static_cast<size_t>(engram_index)];
  const auto values = static_cast<uint32_t>(config_.engram_values());
  ENGRAM_RETURN_IF_ERROR(matmuls_->Run({counts.rows, 2 * hidden_size_, values},
                                       engram_values_.data(), layer.keys_value.data(),
                                       keys_value_.data(), stream));
  if (config_.engram->variant == Variant::kV41) {
    ENGRAM_CUDA_TRY(
        LaunchFuseV41(keys_value_.data(), layer.query_key.data(), dead_.data(),
                      config_.rms_norm_eps, counts.rows, hidden_size_, hidden_.data(), stream),
        "fusing an Engram layer");
    return {};
  }
  const DemoFusion fusion{layer.bias.data(),
                          layer.query_key.data(),
                          layer.conv_norm.data(),
                          layer.conv.data(),
                          hidden_size_,
                          static_cast<uint32_t>(config_.engram->demo_kernel_size),
                          static_cast<uint32_t>(config_.engram->max_ngram_size)};
  ENGRAM_CUDA_TRY(LaunchGateDemo(fusion, keys_value_.data(), hidden_.data(), counts.rows,
                                 gated_.data(), gated_normed_.data(), stream),
                  "gating an Engram layer");
  ENGRAM_CUDA_TRY(LaunchConvolveDemo(fusion, inputs.parts, inputs.places, counts.rows, counts.parts,
                                     gated_.data(), gated_normed_.data(), layer.conv_history.data(),
                                     hidden_.data(), stream),
                  "an Engram layer's convolution");
  return {};
}

Status GpuTransformer::EnqueueLayer(int32_t index, const StepCounts& counts, const Inputs& inputs,
                                    cudaStream_t stream) {
  const DeviceLayer& layer = weights_.layers[static_cast<size_t>(index)];
  const uint32_t rows = counts.rows;
  const float eps = config_.rms_norm_eps;
  const uint32_t heads_width = heads_.heads * heads_.head_dim;
  const KvCache cache = CacheOf(index);
  ENGRAM_CUDA_TRY(LaunchRmsNorm(hidden_.data(), layer.input_norm.data(), eps, nullptr, rows,
                                hidden_size_, normed_.data(), stream),
                  "a norm");
  ENGRAM_RETURN_IF_ERROR(matmuls_->Run({rows, heads_.qkv_width(), hidden_size_}, normed_.data(),
                                       layer.qkv.data(), qkv_.data(), stream));
  ENGRAM_CUDA_TRY(
      LaunchPrepareAttention(heads_, inputs.places, rows, layer.q_norm.data(), layer.k_norm.data(),
                             eps, cosine_.data(), sine_.data(), cache, qkv_.data(), stream),
      "writing the KV cache");
  ENGRAM_CUDA_TRY(LaunchDecodeAttention(heads_, inputs.places, inputs.decode_rows, counts.decodes,
                                        counts.splits, cache, qkv_.data(), partials_.data(),
                                        attended_.data(), stream),
                  "decode attention");
  ENGRAM_CUDA_TRY(
      LaunchPrefillAttention(heads_, inputs.places, inputs.tile_rows, inputs.tile_lengths,
                             counts.tiles, cache, qkv_.data(), attended_.data(), stream),
      "prefill attention");
  ENGRAM_RETURN_IF_ERROR(AddToHidden(rows, heads_width, attended_.data(), layer.o.data(), stream));
  ENGRAM_CUDA_TRY(LaunchRmsNorm(hidden_.data(), layer.post_attention_norm.data(), eps, nullptr,
                                rows, hidden_size_, normed_.data(), stream),
                  "a norm");
  ENGRAM_RETURN_IF_ERROR(matmuls_->Run({rows, 2 * intermediate_, hidden_size_}, normed_.data(),
                                       layer.gate_up.data(), gate_up_.data(), stream));
  ENGRAM_CUDA_TRY(LaunchSwiGlu(gate_up_.data(), rows, intermediate_, activated_.data(), stream),
                  "SwiGLU");
  return AddToHidden(rows, intermediate_, activated_.data(), layer.down.data(), stream);
}

Status GpuTransformer::AddToHidden(uint32_t rows, uint32_t inputs, const Bf16* x,
                                   const Bf16* weights, cudaStream_t stream) {
  const auto output =
      options_.adds_residual ? MatmulShape::Output::kAddF32 : MatmulShape::Output::kF32;
  ENGRAM_RETURN_IF_ERROR(
      matmuls_->Run({rows, hidden_size_, inputs, output}, x, weights, hidden_.data(), stream));
  if (options_.ranks == nullptr) return {};
  return options_.ranks->AllReduce(hidden_.data(), size_t{rows} * hidden_size_, stream);
}

Status GpuTransformer::EnqueueLogits(const StepCounts& counts, const Inputs& inputs,
                                     cudaStream_t stream) {
  ENGRAM_CUDA_TRY(
      LaunchRmsNorm(hidden_.data(), weights_.final_norm.data(), config_.rms_norm_eps,
                    inputs.logit_rows, counts.logits, hidden_size_, normed_.data(), stream),
      "a norm");
  const DeviceArray<Bf16>& head =
      weights_.lm_head.size() != 0 ? weights_.lm_head : weights_.embedding;
  return matmuls_->Run({counts.logits, static_cast<uint32_t>(config_.vocabulary_size), hidden_size_,
                        MatmulShape::Output::kF32},
                       normed_.data(), head.data(), logits_.data(), stream);
}

Status GpuTransformer::Sample(const DeviceDraw* draws, uint32_t count, uint32_t vocabulary,
                              int32_t* tokens, cudaStream_t stream) {
  ENGRAM_CUDA_TRY(LaunchSample(logits_.data(), static_cast<uint32_t>(config_.vocabulary_size),
                               vocabulary, draws, count, tokens, stream),
                  "drawing tokens");
  return {};
}

}  // namespace engram::gpu
