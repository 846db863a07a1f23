#include "model_worker/cuda/cuda_backend.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "engram/base/check.h"
#include "engram/table/table_layout.h"
#include "model_worker/collectives/agreement.h"
#include "model_worker/cuda/device_choice.h"
#include "model_worker/cuda/device_landing.h"
#include "model_worker/cuda/device_memory.h"
#include "model_worker/cuda/device_ranks.h"
#include "model_worker/cuda/device_tables.h"
#include "model_worker/cuda/gpu_transformer.h"
#include "model_worker/cuda/graph_cache.h"
#include "model_worker/cuda/kv_pages.h"
#include "model_worker/cuda/layer_segments.h"
#include "model_worker/cuda/rank_events.h"
#include "model_worker/cuda/row_staging.h"
#include "model_worker/cuda/step_inputs.h"
#include "model_worker/step_check.h"
#include "model_worker/tensor_part.h"

namespace engram {
namespace {

using gpu::CudaStatus;

// Host copies of step inputs: the CPU fills one while the other is on its way.
constexpr size_t kInputBuffers = 2;
// Logits come to the host in pieces of at most this, through pinned memory.
constexpr size_t kLogitPieceBytes = size_t{32} << 20;

TensorPart PartOf(const CudaBackendOptions& options) {
  if (options.collective == nullptr) return {};
  return {options.collective->rank(), options.collective->rank_count()};
}

class CudaBackendImpl final : public CudaBackend {
 public:
  CudaBackendImpl(const ModelConfig& config, const CudaBackendOptions& options, int32_t device,
                  uint32_t pages_per_slot, uint32_t page_count)
      : config_(PartConfig(config, PartOf(options))),
        options_(options),
        device_(device),
        positions_(options.limits, config.vocabulary_size),
        pages_(options.limits.sequences_max, pages_per_slot, page_count),
        pinned_(device),
        landing_(device) {
    options_.limits.kv_page_tokens = gpu::kPageTokens;
  }
  ~CudaBackendImpl() override;

  [[nodiscard]] Status Load(ModelWeights weights);

  [[nodiscard]] const Limits& limits() const override { return options_.limits; }
  [[nodiscard]] int32_t vocabulary_size() const override { return config_.vocabulary_size; }
  [[nodiscard]] uint64_t parameters_non_embedding() const override { return parameters_; }
  [[nodiscard]] std::string hardware() const override;
  [[nodiscard]] StagingMemoryObserver* staging_observer() override { return &pinned_; }
  [[nodiscard]] RowLanding* row_landing() override { return &landing_; }
  [[nodiscard]] CudaBackendStats stats() const override;
  [[nodiscard]] Status LoadTables(CheckpointRows* checkpoint,
                                  const CheckpointRows::OnProgress& on_progress) override;

  void ResetSlot(SequenceSlot slot) override;
  [[nodiscard]] Status Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                               std::vector<float>* logits) override;
  [[nodiscard]] Status ForwardAndSample(std::span<const SequenceStep> steps, EngramRows* engram,
                                        const StepDraws& draws,
                                        std::vector<TokenId>* tokens) override;

 private:
  struct InputBuffer {
    gpu::PinnedArray<int32_t> ints;
    gpu::Event copied;
  };

  void MakeSegments(const ModelWeights& weights);
  [[nodiscard]] Status MakeBuffers();
  // One step; `take` gets what was wanted of it, once it is enqueued.
  template <typename Take>
  [[nodiscard]] Status RunStep(std::span<const SequenceStep> steps, EngramRows* engram, Take take);
  [[nodiscard]] Status SendInputs(std::span<const SequenceStep> steps,
                                  const gpu::StepCounts& counts);
  [[nodiscard]] Status RunSegments(const gpu::StepCounts& counts, EngramRows* engram);
  [[nodiscard]] Status StageRows(int32_t engram_index, const gpu::StepCounts& counts,
                                 EngramRows* engram);
  [[nodiscard]] Status DecodeRows(int32_t engram_index, const gpu::RowStaging::Staged& staged,
                                  std::span<const LayerRows> pieces, const gpu::StepCounts& counts);
  [[nodiscard]] Status RunSegment(size_t index, const gpu::LayerSegment& segment, bool engram_on,
                                  const gpu::StepCounts& counts);
  [[nodiscard]] Status TakeLogits(const gpu::StepCounts& counts, std::vector<float>* logits);
  [[nodiscard]] Status TakeTokens(const gpu::StepCounts& counts, const StepDraws& draws,
                                  std::vector<TokenId>* tokens);
  // Errors of the step's kernels come out here.
  [[nodiscard]] Status AwaitStep();

  ModelConfig config_;  // of the part
  CudaBackendOptions options_;
  int32_t device_;
  uint64_t parameters_ = 0;
  SequencePositions positions_;
  gpu::KvPages pages_;
  gpu::PinnedStaging pinned_;
  gpu::DeviceLanding landing_;
  gpu::Stream stream_;
  std::unique_ptr<gpu::DeviceRanks> ranks_;  // null: one rank
  gpu::RankEvents events_{nullptr, {}, {}};
  std::unique_ptr<gpu::GpuTransformer> transformer_;
  std::unique_ptr<gpu::RowStaging> staging_;   // null without Engram layers
  std::unique_ptr<gpu::DeviceTables> tables_;  // null: rows are staged
  gpu::GraphCache graphs_;
  std::array<std::vector<gpu::LayerSegment>, 2> segments_;  // Engram off, on
  std::vector<LayerRowsShape> rows_shapes_;                 // [Engram layers]
  std::array<InputBuffer, kInputBuffers> inputs_;
  size_t next_input_ = 0;
  gpu::PinnedArray<float> logit_piece_;  // made when logits are first wanted
  gpu::PinnedArray<gpu::DeviceDraw> draws_;
  gpu::PinnedArray<int32_t> tokens_;
  gpu::Event step_done_;
  std::vector<gpu::PageEntry> page_entries_;  // scratch
  Status rows_error_;                         // of the step under way
  uint64_t segments_enqueued_ = 0;
};

CudaBackendImpl::~CudaBackendImpl() {
  // Kernels and copies in flight use what is about to be freed.
  (void)cudaSetDevice(device_);
  (void)cudaDeviceSynchronize();
}

Status CudaBackendImpl::Load(ModelWeights weights) {
  ENGRAM_CUDA_TRY(cudaSetDevice(device_), "choosing the GPU");
  gpu::GpuTransformer::Options options;
  options.limits = options_.limits;
  options.pages_per_slot = pages_.pages_per_slot();
  options.page_count = pages_.page_count();
  options.computes_logits = PartOf(options_).rank == 0;
  if (options_.collective != nullptr) {
    auto ranks = gpu::DeviceRanks::Join(options_.collective);
    if (!ranks.has_value()) return std::move(ranks).error();
    ranks_ = *std::move(ranks);
    options.ranks = ranks_.get();
    options.adds_residual = PartOf(options_).rank == 0;
  }
  events_ = gpu::RankEvents(ranks_.get(), options_.rank_patience, options_.spin);
  parameters_ = weights.parameters_non_embedding();
  MakeSegments(weights);
  auto transformer = gpu::GpuTransformer::Create(config_, std::move(weights), options);
  if (!transformer.has_value()) return std::move(transformer).error();
  transformer_ = *std::move(transformer);
  ENGRAM_RETURN_IF_ERROR(MakeBuffers());
  // What was cleared or copied on the default stream is done before stream_ begins: it does not
  // wait for that one.
  ENGRAM_CUDA_TRY(cudaDeviceSynchronize(), "loading the model");
  return {};
}

void CudaBackendImpl::MakeSegments(const ModelWeights& weights) {
  std::vector<int32_t> engram_index(weights.layers.size(), -1);
  for (size_t e = 0; e < weights.engram.size(); ++e) {
    const int32_t layer = weights.engram[e].layer_id;
    engram_index[static_cast<size_t>(layer)] = static_cast<int32_t>(e);
    rows_shapes_.push_back({layer, config_.engram->variant,
                            static_cast<uint32_t>(config_.engram_columns()),
                            RowBytes(weights.row_format, config_.engram->row_values),
                            /*table_rows=*/0, /*takes_landed=*/true});
  }
  for (const bool engram_on : {false, true}) {
    segments_[engram_on ? 1 : 0] = gpu::PlanSegments(engram_index, engram_on);
  }
}

Status CudaBackendImpl::MakeBuffers() {
  auto stream = gpu::MakeStream();
  if (!stream.has_value()) return std::move(stream).error();
  stream_ = *std::move(stream);
  for (InputBuffer& buffer : inputs_) {
    auto ints = gpu::PinnedArray<int32_t>::Create(gpu::StepIntsMax(limits()), "step inputs");
    if (!ints.has_value()) return std::move(ints).error();
    buffer.ints = *std::move(ints);
    auto event = gpu::MakeEvent();
    if (!event.has_value()) return std::move(event).error();
    buffer.copied = *std::move(event);
  }
  const size_t drawn = std::min(limits().sequences_max, limits().step_tokens_max);
  auto draws = gpu::PinnedArray<gpu::DeviceDraw>::Create(drawn, "draws");
  if (!draws.has_value()) return std::move(draws).error();
  draws_ = *std::move(draws);
  auto tokens = gpu::PinnedArray<int32_t>::Create(drawn, "drawn tokens");
  if (!tokens.has_value()) return std::move(tokens).error();
  tokens_ = *std::move(tokens);
  auto done = gpu::MakeEvent();
  if (!done.has_value()) return std::move(done).error();
  step_done_ = *std::move(done);
  if (rows_shapes_.empty()) return {};
  gpu::RowStaging::Options options;
  options.tokens_max = limits().step_tokens_max;
  options.layer_bytes_max = size_t{options.tokens_max} * rows_shapes_.front().columns *
                            std::max(rows_shapes_.front().row_bytes, kRowIdBytes);
  options.pinned = &pinned_;
  options.events = &events_;
  auto staging = gpu::RowStaging::Create(options);
  if (!staging.has_value()) return std::move(staging).error();
  staging_ = *std::move(staging);
  return {};
}

CudaBackendStats CudaBackendImpl::stats() const {
  CudaBackendStats stats;
  stats.graphs_captured = graphs_.captured_count();
  stats.graphs_launched = graphs_.launched_count();
  stats.segments_enqueued = segments_enqueued_;
  stats.staging_bytes_unpinned = pinned_.unpinned_bytes();
  stats.staging_unpinned_why = pinned_.unpinned_why();
  if (staging_ != nullptr) {
    stats.row_copies_pinned = staging_->pinned_count();
    stats.row_copies_bounced = staging_->bounced_count();
    stats.row_bytes_copied = staging_->byte_count();
  }
  return stats;
}

Status CudaBackendImpl::LoadTables(CheckpointRows* checkpoint,
                                   const CheckpointRows::OnProgress& on_progress) {
  ENGRAM_CHECK(tables_ == nullptr);
  ENGRAM_CUDA_TRY(cudaSetDevice(device_), "choosing the GPU");
  const TableLayout& layout = checkpoint->layout();
  if (static_cast<size_t>(layout.layer_count()) != rows_shapes_.size() || rows_shapes_.empty() ||
      static_cast<uint32_t>(layout.column_count()) != rows_shapes_.front().columns ||
      layout.row_bytes() != rows_shapes_.front().row_bytes) {
    return {StatusCode::kInvalidArgument,
            "the tables are of another model than the weights: their layers, columns or rows "
            "differ"};
  }
  auto tables = gpu::DeviceTables::Load(checkpoint, on_progress);
  if (!tables.has_value()) return std::move(tables).error();
  tables_ = *std::move(tables);
  for (size_t layer = 0; layer < rows_shapes_.size(); ++layer) {
    rows_shapes_[layer].table_rows = layout.row_count(static_cast<int32_t>(layer));
  }
  return {};
}

std::string CudaBackendImpl::hardware() const {
  cudaDeviceProp properties{};
  const cudaError_t error = cudaGetDeviceProperties(&properties, device_);
  return error == cudaSuccess ? properties.name : "a GPU that CUDA does not name";
}

void CudaBackendImpl::ResetSlot(SequenceSlot slot) {
  positions_.Reset(slot);
  pages_.Reset(slot.value());
}

Status CudaBackendImpl::Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                                std::vector<float>* logits) {
  return RunStep(steps, engram,
                 [&](const gpu::StepCounts& counts) { return TakeLogits(counts, logits); });
}

Status CudaBackendImpl::ForwardAndSample(std::span<const SequenceStep> steps, EngramRows* engram,
                                         const StepDraws& draws, std::vector<TokenId>* tokens) {
  return RunStep(steps, engram,
                 [&](const gpu::StepCounts& counts) { return TakeTokens(counts, draws, tokens); });
}

template <typename Take>
Status CudaBackendImpl::RunStep(std::span<const SequenceStep> steps, EngramRows* engram,
                                Take take) {
  ENGRAM_CUDA_TRY(cudaSetDevice(device_), "choosing the GPU");
  ENGRAM_RETURN_IF_ERROR(positions_.Check(steps));
  if (engram != nullptr && rows_shapes_.empty()) {
    return {StatusCode::kInvalidArgument,
            "Engram rows for a model without Engram layers: run it with Engram off"};
  }
  page_entries_.clear();
  ENGRAM_RETURN_IF_ERROR(pages_.Extend(steps, &page_entries_));
  positions_.Begin(steps);
  const gpu::StepCounts counts =
      gpu::CountStep(steps, page_entries_.size(), static_cast<uint32_t>(config_.kv_head_count));
  rows_error_ = {};
  Status status = SendInputs(steps, counts);
  if (status.ok()) status = RunSegments(counts, engram);
  if (status.ok()) status = take(counts);
  // Also after an error: the rows are the caller's again when this returns.
  if (engram != nullptr) {
    const Status finished = staging_->FinishCopies();
    if (status.ok()) status = finished;
  }
  if (status.ok()) positions_.Finish(steps);
  return WhileComputing(status, rows_error_);
}

Status CudaBackendImpl::SendInputs(std::span<const SequenceStep> steps,
                                   const gpu::StepCounts& counts) {
  InputBuffer& buffer = inputs_[next_input_];
  next_input_ = (next_input_ + 1) % kInputBuffers;
  ENGRAM_RETURN_IF_ERROR(events_.Await(buffer.copied.get(), "the step before the last"));
  gpu::FillStep(steps, page_entries_, counts, buffer.ints.data());
  // On the compute stream: the step before has read its inputs by then.
  ENGRAM_CUDA_TRY(cudaMemcpyAsync(transformer_->inputs(), buffer.ints.data(),
                                  gpu::PlaceStep(counts).int_count * sizeof(int32_t),
                                  cudaMemcpyHostToDevice, stream_.get()),
                  "copying a step's inputs");
  ENGRAM_CUDA_TRY(cudaEventRecord(buffer.copied.get(), stream_.get()), "recording a copy");
  return {};
}

Status CudaBackendImpl::RunSegments(const gpu::StepCounts& counts, EngramRows* engram) {
  const bool engram_on = engram != nullptr;
  const std::vector<gpu::LayerSegment>& segments = segments_[engram_on ? 1 : 0];
  for (size_t i = 0; i < segments.size(); ++i) {
    if (segments[i].engram_index >= 0) {
      ENGRAM_RETURN_IF_ERROR(StageRows(segments[i].engram_index, counts, engram));
    }
    ENGRAM_RETURN_IF_ERROR(RunSegment(i, segments[i], engram_on, counts));
  }
  return {};
}

// Waits for the rows on the CPU, while the GPU runs the segments that were enqueued before.
Status CudaBackendImpl::StageRows(int32_t engram_index, const gpu::StepCounts& counts,
                                  EngramRows* engram) {
  ENGRAM_CHECK(engram != nullptr);  // segments without Engram have no index
  const auto rows = engram->Rows(engram_index);
  if (!rows.has_value()) {
    rows_error_ = rows.error();
    return rows_error_;
  }
  ENGRAM_RETURN_IF_ERROR(
      CheckLayerRows(rows_shapes_[static_cast<size_t>(engram_index)], *rows, counts.tokens));
  const auto staged = staging_->Stage(*rows, stream_.get());
  if (!staged.has_value()) return staged.error();
  const Status decoded = DecodeRows(engram_index, *staged, *rows, counts);
  // Also after an error: what was enqueued reads them.
  const Status consumed = staging_->Consumed(*staged, stream_.get());
  return decoded.ok() ? consumed : decoded;
}

// Pieces that are looked up in the same table, or in none, as one: mostly that is all of them.
Status CudaBackendImpl::DecodeRows(int32_t engram_index, const gpu::RowStaging::Staged& staged,
                                   std::span<const LayerRows> pieces,
                                   const gpu::StepCounts& counts) {
  const auto table_of = [&](const LayerRows& piece) -> const std::byte* {
    if (piece.landed.rows != nullptr) return piece.landed.rows;
    return piece.only_ids ? tables_->rows(engram_index) : nullptr;
  };
  gpu::RowsPart part;
  for (size_t i = 0; i < pieces.size(); ++i) {
    part.table = table_of(pieces[i]);
    part.tokens += pieces[i].token_count;
    part.bytes += pieces[i].rows.size();
    const bool last = i + 1 == pieces.size();
    if (!last && table_of(pieces[i + 1]) == part.table) continue;
    part.rows = last ? counts.rows - part.first : part.tokens;  // with the step's padding
    ENGRAM_RETURN_IF_ERROR(transformer_->DecodeRows(staged, part, stream_.get()));
    part = {.offset = part.offset + part.bytes, .first = part.first + part.tokens};
  }
  return {};
}

Status CudaBackendImpl::RunSegment(size_t index, const gpu::LayerSegment& segment, bool engram_on,
                                   const gpu::StepCounts& counts) {
  const auto enqueue = [&] { return transformer_->EnqueueSegment(segment, counts, stream_.get()); };
  if (!options_.graphs || !counts.uniform_decode) {
    ++segments_enqueued_;
    return enqueue();
  }
  const gpu::GraphKey key{counts.rows, counts.splits.count, counts.splits.tokens,
                          static_cast<int32_t>(index), engram_on};
  const uint64_t launched = graphs_.launched_count();
  ENGRAM_RETURN_IF_ERROR(graphs_.Run(key, stream_.get(), enqueue));
  if (graphs_.launched_count() == launched) ++segments_enqueued_;
  return {};
}

Status CudaBackendImpl::AwaitStep() {
  ENGRAM_CUDA_TRY(cudaEventRecord(step_done_.get(), stream_.get()), "recording a step");
  return events_.Await(step_done_.get(), "computing a step");
}

Status CudaBackendImpl::TakeLogits(const gpu::StepCounts& counts, std::vector<float>* logits) {
  if (counts.logits_wanted == 0 || PartOf(options_).rank != 0) logits->clear();
  if (counts.logits_wanted == 0) return {};
  // Rank 0 would wait in vain for a rank whose kernels failed.
  if (PartOf(options_).rank != 0) return AwaitStep();
  const size_t count = counts.logits_wanted * static_cast<size_t>(config_.vocabulary_size);
  if (logit_piece_.size() == 0) {
    const size_t drawn = draws_.size() * static_cast<size_t>(config_.vocabulary_size);
    auto piece = gpu::PinnedArray<float>::Create(std::min(drawn, kLogitPieceBytes / sizeof(float)),
                                                 "logits");
    if (!piece.has_value()) return std::move(piece).error();
    logit_piece_ = *std::move(piece);
  }
  // What it has from the step before is overwritten: not cleared first, 19 MB at 32 sequences.
  logits->resize(count);
  for (size_t at = 0; at < count; at += logit_piece_.size()) {
    const size_t piece = std::min(logit_piece_.size(), count - at);
    ENGRAM_CUDA_TRY(cudaMemcpyAsync(logit_piece_.data(), transformer_->logits() + at,
                                    piece * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                    "copying logits");
    ENGRAM_RETURN_IF_ERROR(AwaitStep());
    std::memcpy(logits->data() + at, logit_piece_.data(), piece * sizeof(float));
  }
  return {};
}

Status CudaBackendImpl::TakeTokens(const gpu::StepCounts& counts, const StepDraws& draws,
                                   std::vector<TokenId>* tokens) {
  ENGRAM_CHECK(counts.logits_wanted == draws.draws.size() &&
               draws.vocabulary_size <= config_.vocabulary_size);
  tokens->clear();
  if (counts.logits_wanted == 0) return {};
  if (PartOf(options_).rank != 0) return AwaitStep();
  // The step before has read them: it was waited for.
  std::transform(draws.draws.begin(), draws.draws.end(), draws_.data(), gpu::DrawOnDevice);
  ENGRAM_RETURN_IF_ERROR(transformer_->Sample(draws_.data(), counts.logits_wanted,
                                              static_cast<uint32_t>(draws.vocabulary_size),
                                              tokens_.data(), stream_.get()));
  ENGRAM_RETURN_IF_ERROR(AwaitStep());
  tokens->assign(tokens_.data(), tokens_.data() + counts.logits_wanted);
  return {};
}

// `config` is that of a rank's part.
Status CheckShapes(const ModelConfig& config, uint32_t rank_count) {
  const auto unfit = [](const char* key, int32_t value, const char* bound) {
    return Status(StatusCode::kInvalidArgument, std::string(key) + " is " + std::to_string(value) +
                                                    ": the CUDA backend takes " + bound +
                                                    "; use --backend cpu");
  };
  if (config.hidden_size % 8 != 0) {
    return unfit("hidden_size", config.hidden_size, "multiples of 8");
  }
  if (config.head_dim % 8 != 0 || gpu::PaddedHeadDim(static_cast<uint32_t>(config.head_dim)) == 0) {
    return unfit("head_dim", config.head_dim, "multiples of 8 up to 128");
  }
  // Of the whole model any width will do. Cut ones that are no multiple have not been tried.
  if (rank_count > 1 && config.intermediate_size % 8 != 0) {
    return unfit("intermediate_size (of a rank)", config.intermediate_size, "multiples of 8");
  }
  return {};
}

// The GPU to use, ready for it.
Result<int32_t> OpenDevice(const CudaBackendOptions& options) {
  const auto unfit = [](const std::string& message) {
    return Error(StatusCode::kFailedPrecondition, message + "; or use --backend cpu");
  };
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    return unfit(std::string("no GPU can be used here (") + cudaGetErrorString(error) +
                 "): run on a machine with an NVIDIA GPU and its driver");
  }
  const auto chosen =
      gpu::ChooseGpu(options.device, options.host_rank, static_cast<uint32_t>(count));
  if (!chosen.has_value()) return unfit(chosen.error().message());
  const int32_t device = *chosen;
  int major = 0;
  ENGRAM_TRY(CudaStatus(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
                        "asking what the GPU is"));
  if (major < 8) {
    return unfit("the GPU's compute capability is " + std::to_string(major) +
                 ".x: use one of 8.0 or more (A100, H100 and later)");
  }
  // Makes CUDA's context now: where that fails (another process has the GPU to itself), the other
  // ranks must hear of it.
  ENGRAM_TRY(CudaStatus(cudaSetDevice(device), "choosing the GPU"));
  ENGRAM_TRY(CudaStatus(cudaFree(nullptr), "beginning to use the GPU"));
  return device;
}

}  // namespace

Result<std::unique_ptr<CudaBackend>> CreateCudaBackend(const ModelConfig& config,
                                                       ModelWeights weights,
                                                       const CudaBackendOptions& options) {
  ENGRAM_TRY(CheckTensorPart(config, PartOf(options)));
  ENGRAM_TRY(CheckBackendLimits(config, weights, options.limits));
  ENGRAM_TRY(CheckShapes(PartConfig(config, PartOf(options)), PartOf(options).count));
  const uint32_t per_slot = gpu::PagesFor(options.limits.sequence_tokens_max);
  const uint64_t all_slots = uint64_t{per_slot} * options.limits.sequences_max;
  const uint64_t asked = options.limits.kv_tokens_max / gpu::kPageTokens;
  if (options.limits.kv_tokens_max != 0 && asked == 0) {
    return Error(StatusCode::kInvalidArgument,
                 "a KV cache of " + std::to_string(options.limits.kv_tokens_max) +
                     " tokens is less than a page of " + std::to_string(gpu::kPageTokens));
  }
  const uint64_t pages = asked == 0 ? all_slots : std::min(asked, all_slots);
  if (all_slots > INT32_MAX) {
    return Error(StatusCode::kInvalidArgument,
                 "a KV cache of " + std::to_string(all_slots) + " pages: lower the limits");
  }
  const Status no_memory(StatusCode::kResourceExhausted, "not enough memory to load the model");
  std::unique_ptr<CudaBackendImpl> backend;
  const auto device = OpenDevice(options);
  Status ready = device.has_value() ? Status() : device.error();
  try {
    if (ready.ok()) {
      backend = std::make_unique<CudaBackendImpl>(config, options, *device, per_slot,
                                                  static_cast<uint32_t>(pages));
    }
  } catch (const std::bad_alloc&) {
    ready = no_memory;
  }
  // Before Load, whose first step joins the ranks: none must wait there for one that has no GPU.
  ENGRAM_TRY(AgreeOn(options.collective, ready));
  try {
    ENGRAM_TRY(backend->Load(std::move(weights)));
    return backend;
  } catch (const std::bad_alloc&) {
    return Error(no_memory);
  }
}

}  // namespace engram
