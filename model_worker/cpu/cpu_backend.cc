#include "model_worker/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engram/base/thread_role.h"
#include "model_worker/cpu/attention.h"
#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/engram_layer.h"
#include "model_worker/cpu/kernels.h"
#include "model_worker/cpu/matmul.h"
#include "model_worker/fusion.h"
#include "model_worker/step_check.h"

namespace engram {
namespace {

// Gate and up projections are interleaved in half panels, so that one task has both of its outputs.
std::vector<float> InterleaveGateUp(const Matrix& gate, const Matrix& up) {
  const int64_t half = PackedMatrix::PanelColumns(2 * gate.rows) / 2;
  std::vector<float> values;
  values.reserve(gate.values.size() + up.values.size());
  for (int64_t begin = 0; begin < gate.rows; begin += half) {
    const int64_t end = std::min(begin + half, gate.rows);
    for (const Matrix* matrix : {&gate, &up}) {
      values.insert(values.end(), matrix->values.begin() + begin * matrix->columns,
                    matrix->values.begin() + end * matrix->columns);
    }
  }
  return values;
}

struct CpuLayer {
  std::vector<float> input_norm, q_norm, k_norm, post_attention_norm;
  PackedMatrix qkv, o, gate_up, down;
};

Result<CpuLayer> PackLayer(MatmulShapes* shapes, LayerWeights weights) {
  CpuLayer layer;
  layer.input_norm = std::move(weights.input_norm);
  layer.q_norm = std::move(weights.q_norm);
  layer.k_norm = std::move(weights.k_norm);
  layer.post_attention_norm = std::move(weights.post_attention_norm);
  const int64_t hidden = weights.q.columns;

  std::vector<float> qkv = std::move(weights.q.values);
  qkv.insert(qkv.end(), weights.k.values.begin(), weights.k.values.end());
  qkv.insert(qkv.end(), weights.v.values.begin(), weights.v.values.end());
  ENGRAM_ASSIGN_OR_RETURN(
      layer.qkv, PackedMatrix::Pack(shapes, qkv, weights.q.rows + weights.k.rows + weights.v.rows,
                                    hidden, false));
  ENGRAM_ASSIGN_OR_RETURN(layer.o, PackedMatrix::Pack(shapes, weights.o.values, weights.o.rows,
                                                      weights.o.columns, true));
  ENGRAM_ASSIGN_OR_RETURN(layer.gate_up,
                          PackedMatrix::Pack(shapes, InterleaveGateUp(weights.gate, weights.up),
                                             weights.gate.rows + weights.up.rows, hidden, false));
  ENGRAM_ASSIGN_OR_RETURN(layer.down,
                          PackedMatrix::Pack(shapes, weights.down.values, weights.down.rows,
                                             weights.down.columns, true));
  return layer;
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const ModelConfig& config, const CpuBackendOptions& options, Attention attention)
      : config_(config),
        limits_(options.limits),
        kernels_(&CpuKernels()),
        pool_(options.threads),
        shapes_(options.threads),
        attention_(std::move(attention)),
        positions_(options.limits, config.vocabulary_size) {}

  [[nodiscard]] Status Load(ModelWeights weights);

  [[nodiscard]] const Limits& limits() const override { return limits_; }
  [[nodiscard]] int32_t vocabulary_size() const override { return config_.vocabulary_size; }
  [[nodiscard]] uint64_t parameters_non_embedding() const override { return parameters_; }

  void ResetSlot(SequenceSlot slot) override;
  [[nodiscard]] Status Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                               std::vector<float>* logits) override;

 private:
  void AllocateScratch();
  [[nodiscard]] Status PrepareDecode();
  void PlanParts(std::span<const SequenceStep> steps);
  [[nodiscard]] Status RunLayers(EngramRows* engram);
  [[nodiscard]] Status FuseEngram(int32_t layer, EngramRows* engram);
  [[nodiscard]] Status RunAttention(int32_t layer);
  [[nodiscard]] Status RunMlp(CpuLayer* layer);
  [[nodiscard]] Status ComputeLogits(std::span<const SequenceStep> steps,
                                     std::vector<float>* logits);
  void NormRows(const float* weight, uint32_t rows, const float* x, float* out);
  // y (+)= x W^T, all tasks on the pool.
  [[nodiscard]] Status Multiply(PackedMatrix* matrix, uint32_t rows, const float* x, float* y);

  ModelConfig config_;
  Limits limits_;
  const Kernels* kernels_;
  ComputePool pool_;
  MatmulShapes shapes_;
  Attention attention_;
  uint64_t parameters_ = 0;
  std::vector<float> embedding_, final_norm_;
  std::vector<CpuLayer> layers_;
  std::vector<EngramLayer> engram_layers_;  // in the config's order
  std::vector<int32_t> engram_index_;       // [layers] place in engram_layers_, or -1
  PackedMatrix lm_head_;
  SequencePositions positions_;

  // Scratch of one Forward; the row counts are padded as MatmulRows says.
  std::vector<StepPart> parts_;
  uint32_t token_count_ = 0;
  std::vector<float> hidden_, normed_, qkv_, attended_, gate_up_, activated_;
  EngramScratch engram_scratch_;
};

Status CpuBackend::Load(ModelWeights weights) {
  parameters_ = weights.parameters_non_embedding();
  final_norm_ = std::move(weights.final_norm);
  for (LayerWeights& layer : weights.layers) {
    Result<CpuLayer> packed = PackLayer(&shapes_, std::move(layer));
    if (!packed.has_value()) return std::move(packed).error();
    layers_.push_back(*std::move(packed));
  }
  engram_index_.assign(layers_.size(), -1);
  for (EngramLayerWeights& layer : weights.engram) {
    engram_index_[static_cast<size_t>(layer.layer_id)] =
        static_cast<int32_t>(engram_layers_.size());
    Result<EngramLayer> made =
        EngramLayer::Create(config_, std::move(layer), weights.row_format, limits_, &shapes_);
    if (!made.has_value()) return std::move(made).error();
    engram_layers_.push_back(*std::move(made));
  }
  const Matrix& head = weights.lm_head.has_value() ? *weights.lm_head : weights.embedding;
  Result<PackedMatrix> lm_head =
      PackedMatrix::Pack(&shapes_, head.values, head.rows, head.columns, false);
  if (!lm_head.has_value()) return std::move(lm_head).error();
  lm_head_ = *std::move(lm_head);
  embedding_ = std::move(weights.embedding.values);
  AllocateScratch();
  return PrepareDecode();
}

Status CpuBackend::PrepareDecode() {
  // oneDNN compiles a kernel for each number of rows: not in the middle of serving.
  const uint32_t rows_max =
      std::min({limits_.sequences_max, limits_.step_tokens_max, kMatmulRowsMax});
  for (uint32_t rows = 1; rows <= rows_max; ++rows) {
    for (CpuLayer& layer : layers_) {
      for (PackedMatrix* matrix : {&layer.qkv, &layer.o, &layer.gate_up, &layer.down}) {
        ENGRAM_RETURN_IF_ERROR(matrix->Prepare(rows));
      }
    }
    for (EngramLayer& layer : engram_layers_) ENGRAM_RETURN_IF_ERROR(layer.Prepare(rows));
    ENGRAM_RETURN_IF_ERROR(lm_head_.Prepare(rows));
  }
  return {};
}

void CpuBackend::AllocateScratch() {
  const size_t tokens = limits_.step_tokens_max;
  const size_t rows = MatmulRows(limits_.step_tokens_max);
  const auto hidden = static_cast<size_t>(config_.hidden_size);
  const auto heads = static_cast<size_t>(config_.head_count);
  const auto kv_heads = static_cast<size_t>(config_.kv_head_count);
  const auto head_dim = static_cast<size_t>(config_.head_dim);
  const auto intermediate = static_cast<size_t>(config_.intermediate_size);
  hidden_.resize(rows * hidden);
  normed_.resize(rows * hidden);
  qkv_.resize(rows * (heads + 2 * kv_heads) * head_dim);
  attended_.resize(rows * heads * head_dim);
  gate_up_.resize(rows * 2 * intermediate);
  activated_.resize(rows * intermediate);
  parts_.reserve(limits_.sequences_max);
  if (engram_layers_.empty()) return;
  engram_scratch_.values.resize(rows * static_cast<size_t>(config_.engram_values()));
  engram_scratch_.keys_value.resize(rows * 2 * hidden);
  if (config_.engram->variant != Variant::kDemo) return;
  const auto history = static_cast<size_t>(
      ConvHistoryRows(config_.engram->demo_kernel_size, config_.engram->max_ngram_size));
  const size_t parts = std::min<size_t>(limits_.sequences_max, tokens);
  engram_scratch_.gated.resize(tokens * hidden);
  engram_scratch_.window.resize((tokens + parts * history) * hidden);
  engram_scratch_.window_row.reserve(tokens);
  engram_scratch_.part_row.reserve(parts);
}

void CpuBackend::ResetSlot(SequenceSlot slot) {
  if (slot.value() >= limits_.sequences_max) return;
  positions_.Reset(slot);
  for (EngramLayer& layer : engram_layers_) layer.ResetSlot(slot.value());
}

void CpuBackend::PlanParts(std::span<const SequenceStep> steps) {
  parts_.clear();
  token_count_ = 0;
  const auto hidden = static_cast<size_t>(config_.hidden_size);
  for (const SequenceStep& step : steps) {
    parts_.push_back({step.slot.value(), step.position, token_count_,
                      static_cast<uint32_t>(step.tokens.size())});
    for (const TokenId token : step.tokens) {
      std::memcpy(hidden_.data() + token_count_ * hidden,
                  embedding_.data() + static_cast<size_t>(token) * hidden, hidden * sizeof(float));
      ++token_count_;
    }
  }
}

Status CpuBackend::Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                           std::vector<float>* logits) {
  BecomeComputeThread();
  ENGRAM_RETURN_IF_ERROR(positions_.Check(steps));
  if (engram != nullptr && engram_layers_.empty()) {
    return Status(StatusCode::kInvalidArgument,
                  "Engram rows for a model without Engram layers: run it with Engram off");
  }
  positions_.Begin(steps);
  PlanParts(steps);
  ENGRAM_RETURN_IF_ERROR(RunLayers(engram));
  ENGRAM_RETURN_IF_ERROR(ComputeLogits(steps, logits));
  positions_.Finish(steps);
  return {};
}

Status CpuBackend::RunLayers(EngramRows* engram) {
  for (size_t l = 0; l < layers_.size(); ++l) {
    const auto layer = static_cast<int32_t>(l);
    if (engram != nullptr && engram_index_[l] >= 0) {
      ENGRAM_RETURN_IF_ERROR(FuseEngram(layer, engram));
    }
    ENGRAM_RETURN_IF_ERROR(RunAttention(layer));
    ENGRAM_RETURN_IF_ERROR(RunMlp(&layers_[l]));
  }
  return {};
}

Status CpuBackend::FuseEngram(int32_t layer, EngramRows* engram) {
  const int32_t index = engram_index_[static_cast<size_t>(layer)];
  const Result<LayerRows> rows = engram->Rows(index);
  if (!rows.has_value()) return rows.error();
  return engram_layers_[static_cast<size_t>(index)].Run(*rows, parts_, token_count_,
                                                        &engram_scratch_, &pool_, hidden_.data());
}

void CpuBackend::NormRows(const float* weight, uint32_t rows, const float* x, float* out) {
  // A row is well under a microsecond: share them in bundles, and few of them not at all.
  constexpr uint32_t kBundle = 16;
  const ptrdiff_t width = config_.hidden_size;
  pool_.Run((rows + kBundle - 1) / kBundle, [&](size_t bundle, uint32_t) {
    const auto begin = static_cast<uint32_t>(bundle) * kBundle;
    for (uint32_t row = begin; row < std::min(begin + kBundle, rows); ++row) {
      kernels_->rms_norm(x + row * width, weight, config_.rms_norm_eps, config_.hidden_size,
                         out + row * width);
    }
  });
}

Status CpuBackend::Multiply(PackedMatrix* matrix, uint32_t rows, const float* x, float* y) {
  ENGRAM_RETURN_IF_ERROR(matrix->Prepare(rows));
  std::atomic<bool> failed{false};
  pool_.Run(matrix->TaskCount(rows), [&](size_t task, uint32_t thread) {
    if (!matrix->RunTask(thread, task, rows, x, y)) failed.store(true, std::memory_order_relaxed);
  });
  if (!failed.load(std::memory_order_relaxed)) return {};
  return Status(StatusCode::kInternal, "oneDNN failed in a matrix product");
}

Status CpuBackend::RunAttention(int32_t layer) {
  CpuLayer& weights = layers_[static_cast<size_t>(layer)];
  NormRows(weights.input_norm.data(), token_count_, hidden_.data(), normed_.data());
  ENGRAM_RETURN_IF_ERROR(Multiply(&weights.qkv, token_count_, normed_.data(), qkv_.data()));
  attention_.Run(layer, weights.q_norm.data(), weights.k_norm.data(), parts_, qkv_.data(),
                 attended_.data(), &pool_);
  return Multiply(&weights.o, token_count_, attended_.data(), hidden_.data());
}

Status CpuBackend::RunMlp(CpuLayer* layer) {
  NormRows(layer->post_attention_norm.data(), token_count_, hidden_.data(), normed_.data());
  PackedMatrix& gate_up = layer->gate_up;
  ENGRAM_RETURN_IF_ERROR(gate_up.Prepare(token_count_));
  std::atomic<bool> failed{false};
  pool_.Run(gate_up.TaskCount(token_count_), [&](size_t task, uint32_t thread) {
    if (!gate_up.RunTask(thread, task, token_count_, normed_.data(), gate_up_.data())) {
      failed.store(true, std::memory_order_relaxed);
    }
    const PackedMatrix::Task at = gate_up.TaskAt(task, token_count_);
    const int64_t width = (at.column_end - at.column_begin) / 2;
    for (uint32_t row = at.row_begin; row < at.row_end; ++row) {
      const float* gate =
          gate_up_.data() + int64_t{row} * 2 * config_.intermediate_size + at.column_begin;
      kernels_->silu_multiply(
          gate, gate + width, static_cast<int>(width),
          activated_.data() + row * int64_t{config_.intermediate_size} + at.column_begin / 2);
    }
  });
  if (failed.load(std::memory_order_relaxed)) {
    return Status(StatusCode::kInternal, "oneDNN failed in a matrix product");
  }
  return Multiply(&layer->down, token_count_, activated_.data(), hidden_.data());
}

Status CpuBackend::ComputeLogits(std::span<const SequenceStep> steps, std::vector<float>* logits) {
  const auto width = static_cast<size_t>(config_.hidden_size);
  uint32_t wanted = 0;
  for (size_t s = 0; s < steps.size(); ++s) {
    if (!steps[s].logits_wanted) continue;
    const size_t row = parts_[s].token_begin + parts_[s].token_count - 1;
    kernels_->rms_norm(hidden_.data() + row * width, final_norm_.data(), config_.rms_norm_eps,
                       config_.hidden_size, normed_.data() + wanted * width);
    ++wanted;
  }
  const auto vocabulary = static_cast<size_t>(config_.vocabulary_size);
  if (wanted == 0) {
    logits->clear();
    return {};
  }
  logits->resize(lm_head_.RowsTouched(wanted) * vocabulary);
  ENGRAM_RETURN_IF_ERROR(Multiply(&lm_head_, wanted, normed_.data(), logits->data()));
  logits->resize(wanted * vocabulary);
  return {};
}

Status CheckOptions(const ModelConfig& config, const ModelWeights& weights,
                    const CpuBackendOptions& options) {
  if (options.threads == 0 || options.threads > 1024) {
    return Status(StatusCode::kInvalidArgument,
                  "threads = " + std::to_string(options.threads) + "; expected 1 to 1024");
  }
  return CheckBackendLimits(config, weights, options.limits);
}

}  // namespace

Result<std::unique_ptr<Backend>> CreateCpuBackend(const ModelConfig& config, ModelWeights weights,
                                                  const CpuBackendOptions& options) {
  ENGRAM_TRY(CheckOptions(config, weights, options));
  try {
    ENGRAM_ASSIGN_OR_RETURN(Attention attention,
                            Attention::Create(config, options.limits, options.threads));
    auto backend = std::make_unique<CpuBackend>(config, options, std::move(attention));
    ENGRAM_TRY(backend->Load(std::move(weights)));
    return backend;
  } catch (const std::bad_alloc&) {
    return Error(StatusCode::kResourceExhausted,
                 "not enough memory for the model's packed weights and buffers");
  } catch (const dnnl::error& error) {
    return Error(StatusCode::kInternal, std::string("oneDNN: ") + error.what());
  }
}

}  // namespace engram
