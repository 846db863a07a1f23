#include "model_worker/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "engram/base/cpu_model.h"
#include "engram/base/thread_role.h"
#include "model_worker/cpu/attention.h"
#include "model_worker/cpu/blocked_matrix.h"
#include "model_worker/cpu/compute_pool.h"
#include "model_worker/cpu/engram_layer.h"
#include "model_worker/cpu/kernels.h"
#include "model_worker/cpu/matmul.h"
#include "model_worker/fusion.h"
#include "model_worker/step_check.h"
#include "model_worker/tensor_part.h"

namespace engram {
namespace {

// Work on a row of hidden values is well under a microsecond: threads share rows in bundles, and
// few of them not at all.
constexpr uint32_t kBundleRows = 16;

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
  PackedMatrix qkv, gate_up;
  BlockedMatrix o, down;
};

// `blocks` of the part: those of the model that its inputs of o and down are.
Result<CpuLayer> PackLayer(MatmulShapes* shapes, LayerWeights weights, uint32_t blocks) {
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
  ENGRAM_ASSIGN_OR_RETURN(layer.o, BlockedMatrix::Pack(shapes, weights.o.values, weights.o.rows,
                                                       weights.o.columns, blocks));
  ENGRAM_ASSIGN_OR_RETURN(layer.gate_up,
                          PackedMatrix::Pack(shapes, InterleaveGateUp(weights.gate, weights.up),
                                             weights.gate.rows + weights.up.rows, hidden, false));
  ENGRAM_ASSIGN_OR_RETURN(layer.down,
                          BlockedMatrix::Pack(shapes, weights.down.values, weights.down.rows,
                                              weights.down.columns, blocks));
  return layer;
}

TensorPart PartOf(const CpuBackendOptions& options) {
  if (options.collective == nullptr) return {};
  return {options.collective->rank(), options.collective->rank_count()};
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(const ModelConfig& config, const CpuBackendOptions& options, Attention attention)
      : config_(PartConfig(config, PartOf(options))),
        part_(PartOf(options)),
        collective_(options.collective),
        blocks_(SumBlocks(config) / part_.count),
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
  [[nodiscard]] std::string hardware() const override { return CpuModel(); }

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
  // hidden += x W^T over all ranks.
  [[nodiscard]] Status AddToHidden(BlockedMatrix* matrix, const float* x);
  [[nodiscard]] Status GatherLogits(uint32_t rows, std::vector<float>* logits);
  // y = x W^T, all tasks on the pool.
  [[nodiscard]] Status Multiply(PackedMatrix* matrix, uint32_t rows, const float* x, float* y);

  ModelConfig config_;  // of the part
  TensorPart part_;
  Collective* collective_;  // null: one rank
  uint32_t blocks_;         // of the part
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
  PackedMatrix lm_head_;                    // the part's outputs
  SequencePositions positions_;

  // Scratch of one Forward; the row counts are padded as MatmulRows says.
  std::vector<StepPart> parts_;
  uint32_t token_count_ = 0;
  std::vector<float> hidden_, normed_, qkv_, attended_, gate_up_, activated_;
  std::vector<float> sums_;                      // several ranks: what is added to hidden_
  std::vector<std::vector<float>> logit_parts_;  // [ranks] several: the others' on rank 0 alone
  EngramScratch engram_scratch_;
};

Status CpuBackend::Load(ModelWeights weights) {
  parameters_ = weights.parameters_non_embedding();
  final_norm_ = std::move(weights.final_norm);
  for (LayerWeights& layer : weights.layers) {
    Result<CpuLayer> packed = PackLayer(&shapes_, std::move(layer), blocks_);
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
  const IndexRange outputs = VocabularyPart(config_.vocabulary_size, part_);
  if (outputs.size() > 0) {
    const auto values = std::span(head.values)
                            .subspan(static_cast<size_t>(outputs.begin * head.columns),
                                     static_cast<size_t>(outputs.size() * head.columns));
    Result<PackedMatrix> lm_head =
        PackedMatrix::Pack(&shapes_, values, outputs.size(), head.columns, false);
    if (!lm_head.has_value()) return std::move(lm_head).error();
    lm_head_ = *std::move(lm_head);
  }
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
      for (PackedMatrix* matrix : {&layer.qkv, &layer.gate_up}) {
        ENGRAM_RETURN_IF_ERROR(matrix->Prepare(rows));
      }
      for (BlockedMatrix* matrix : {&layer.o, &layer.down}) {
        ENGRAM_RETURN_IF_ERROR(matrix->Prepare(rows));
      }
    }
    for (EngramLayer& layer : engram_layers_) ENGRAM_RETURN_IF_ERROR(layer.Prepare(rows));
    if (lm_head_.columns_out() > 0) ENGRAM_RETURN_IF_ERROR(lm_head_.Prepare(rows));
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
  logit_parts_.resize(part_.count);
  if (part_.count > 1) sums_.resize(tokens * hidden);
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
  const auto rows = engram->Rows(index);
  if (!rows.has_value()) return rows.error();
  return engram_layers_[static_cast<size_t>(index)].Run(*rows, parts_, token_count_,
                                                        &engram_scratch_, &pool_, hidden_.data());
}

void CpuBackend::NormRows(const float* weight, uint32_t rows, const float* x, float* out) {
  const ptrdiff_t width = config_.hidden_size;
  pool_.Run((rows + kBundleRows - 1) / kBundleRows, [&](size_t bundle, uint32_t) {
    const auto begin = static_cast<uint32_t>(bundle) * kBundleRows;
    for (uint32_t row = begin; row < std::min(begin + kBundleRows, rows); ++row) {
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
  return AddToHidden(&weights.o, attended_.data());
}

Status CpuBackend::AddToHidden(BlockedMatrix* matrix, const float* x) {
  if (part_.count == 1) {
    return matrix->Run(&pool_, token_count_, x, BlockedMatrix::Output::kAdd, hidden_.data());
  }
  ENGRAM_RETURN_IF_ERROR(
      matrix->Run(&pool_, token_count_, x, BlockedMatrix::Output::kSet, sums_.data()));
  const size_t width = static_cast<size_t>(config_.hidden_size);
  ENGRAM_RETURN_IF_ERROR(collective_->AllReduce(std::span(sums_).first(token_count_ * width)));
  pool_.Run((token_count_ + kBundleRows - 1) / kBundleRows, [&](size_t bundle, uint32_t) {
    const size_t end = std::min<size_t>((bundle + 1) * kBundleRows, token_count_) * width;
    for (size_t i = bundle * kBundleRows * width; i < end; ++i) hidden_[i] += sums_[i];
  });
  return {};
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
  return AddToHidden(&layer->down, activated_.data());
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
  if (wanted == 0) {
    logits->clear();
    return {};
  }
  const auto outputs = static_cast<size_t>(lm_head_.columns_out());
  if (outputs > 0) {
    std::vector<float>* const out = part_.count == 1 ? logits : &logit_parts_[part_.rank];
    out->resize(lm_head_.RowsTouched(wanted) * outputs);
    ENGRAM_RETURN_IF_ERROR(Multiply(&lm_head_, wanted, normed_.data(), out->data()));
  }
  if (part_.count > 1) return GatherLogits(wanted, logits);
  logits->resize(wanted * outputs);
  return {};
}

// Ranks have ranges of the vocabulary: rank 0 puts them side by side.
Status CpuBackend::GatherLogits(uint32_t rows, std::vector<float>* logits) {
  std::vector<std::span<std::byte>> blocks(part_.count);
  for (uint32_t rank = 0; rank < part_.count; ++rank) {
    const IndexRange range = VocabularyPart(config_.vocabulary_size, {rank, part_.count});
    const auto count = rows * static_cast<size_t>(range.size());
    if (rank == part_.rank || part_.rank == 0) logit_parts_[rank].resize(count);
    blocks[rank] = std::as_writable_bytes(std::span(logit_parts_[rank]));
  }
  ENGRAM_RETURN_IF_ERROR(collective_->Gather(blocks));
  logits->clear();
  if (part_.rank == 0) {
    logits->resize(rows * static_cast<size_t>(config_.vocabulary_size));
    for (uint32_t rank = 0; rank < part_.count; ++rank) {
      const IndexRange range = VocabularyPart(config_.vocabulary_size, {rank, part_.count});
      for (uint32_t row = 0; row < rows; ++row) {
        std::copy_n(logit_parts_[rank].data() + row * range.size(), range.size(),
                    logits->data() + int64_t{row} * config_.vocabulary_size + range.begin);
      }
    }
  }
  return {};
}

Status CheckOptions(const ModelConfig& config, const ModelWeights& weights,
                    const CpuBackendOptions& options) {
  if (options.threads == 0 || options.threads > 1024) {
    return Status(StatusCode::kInvalidArgument,
                  "threads = " + std::to_string(options.threads) + "; expected 1 to 1024");
  }
  ENGRAM_RETURN_IF_ERROR(CheckTensorPart(config, PartOf(options)));
  return CheckBackendLimits(config, weights, options.limits);
}

}  // namespace

Result<std::unique_ptr<Backend>> CreateCpuBackend(const ModelConfig& config, ModelWeights weights,
                                                  const CpuBackendOptions& options) {
  ENGRAM_TRY(CheckOptions(config, weights, options));
  try {
    ENGRAM_ASSIGN_OR_RETURN(
        Attention attention,
        Attention::Create(PartConfig(config, PartOf(options)), options.limits, options.threads));
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
