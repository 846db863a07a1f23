// The backend on an NVIDIA GPU: bf16 weights, activations and KV cache; fp32 sums, norms and
// residual stream. No CUDA header is needed to use it.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "client/row_landing.h"
#include "engram/base/status.h"
#include "engram/checkpoint/checkpoint_rows.h"
#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram {

struct CudaBackendOptions {
  Backend::Limits limits;
  // As CUDA counts them; nullopt = by host_rank, the rank's number on this host
  // (cuda/device_choice.h).
  std::optional<uint32_t> device;
  uint32_t host_rank = 0;
  // Decode steps are captured as CUDA graphs the second time a row bucket comes, and replayed from
  // then on; the numbers are the same without.
  bool graphs = true;
  // The ranks that compute the model together, each on a GPU of its own; this one has weights'
  // part. Null = one rank. OWNERSHIP: outlives the backend. Only rank 0's Forward computes and
  // writes logits.
  Collective* collective = nullptr;
  // How long a step may wait for the GPU of a rank, where there are several; 0 = for ever.
  std::chrono::milliseconds rank_patience{0};
  // How long the thread that drives the backend looks whether the GPU is done before it sleeps.
  std::chrono::microseconds spin{0};
};

// Monotonic counters.
struct CudaBackendStats {
  uint64_t graphs_captured = 0;
  uint64_t graphs_launched = 0;
  uint64_t segments_enqueued = 0;   // kernel by kernel: prefill, and the first step of a kind
  uint64_t row_copies_pinned = 0;   // straight out of pinned staging memory
  uint64_t row_copies_bounced = 0;  // through a pinned buffer of our own
  uint64_t row_bytes_copied = 0;
  uint64_t staging_bytes_unpinned = 0;  // could not be pinned: their rows are bounced
  std::string staging_unpinned_why;     // CUDA's words, where there are such bytes
};

// Thread-compatible, as Backend says. Forward enqueues a step's layers without waiting for the GPU,
// so that an Engram layer's rows are asked for while the layers before it run; a late layer keeps
// only itself and what follows waiting. The rows of each layer travel on a stream of their own.
// With logits wanted, Forward returns when they are there; without, as soon as no row memory is
// read any more, and the GPU may still be computing. Of several ranks all wait for their GPUs where
// logits are wanted, so that a rank whose GPU fails says so in the step itself; and no wait is
// longer than rank_patience (kDeadlineExceeded).
class CudaBackend : public Backend {
 public:
  [[nodiscard]] virtual CudaBackendStats stats() const = 0;

  // Takes the model's tables whole into GPU memory, once, while no step runs; host memory holds
  // none of them. From then on Forward takes row ids as well as rows (LayerRows::only_ids), step
  // by step, and gives the same bits for both; an id outside of its table is kInternal.
  // ERRORS: kResourceExhausted with the bytes needed and free, kInvalidArgument (tables of another
  // model), those of CheckpointRows::Read. The backend is as usable as before.
  [[nodiscard]] virtual Status LoadTables(CheckpointRows* checkpoint,
                                          const CheckpointRows::OnProgress& on_progress) = 0;

  // For row sources whose rows land in this GPU's memory (LayerRows::landed): Forward takes such
  // rows too. They must be gone before the backend is.
  [[nodiscard]] virtual RowLanding* row_landing() = 0;
};

// Takes the weights, rounds them to bf16 and frees the originals as it goes.
//
// WHAT IT TAKES: hidden_size and head_dim must be multiples of 8, head_dim at most 128, and of
// several ranks the part of intermediate_size too; a GPU of compute capability 8.0 or more.
// DETERMINISM: the same steps in the same order give the same bits on one kind of GPU, with graphs
// or without. What shares a step, and how a prefill is cut, may change the last bits of a bf16: the
// matrix products are computed in different tiles for different numbers of rows.
// For another number of ranks the last bits differ (cpu/cpu_backend.h: there they do not): NCCL
// adds in an order of its own. `config` is the whole model's, `weights` the rank's part
// (LoadWeights). Engram may be off (null) or on per sequence, not change within one. ERRORS:
// kFailedPrecondition (this build has no CUDA, or no NCCL for several ranks, this machine no GPU
// that will do; the message says what to do), kInvalidArgument (limits, shapes, more than one
// branch), kResourceExhausted (GPU memory), kInternal (CUDA).
[[nodiscard]] Result<std::unique_ptr<CudaBackend>> CreateCudaBackend(
    const ModelConfig& config, ModelWeights weights, const CudaBackendOptions& options);

}  // namespace engram
