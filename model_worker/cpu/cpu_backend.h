// The backend on oneDNN and plain loops, fp32.
#pragma once

#include <cstdint>
#include <memory>

#include "engram/base/status.h"
#include "model_worker/backend.h"
#include "model_worker/collectives/collective.h"
#include "model_worker/model_config.h"
#include "model_worker/weights.h"

namespace engram {

struct CpuBackendOptions {
  Backend::Limits limits;
  // Compute threads, the caller of Forward among them. They spin for at most some tens of
  // microseconds between two parallel parts, then sleep: I/O threads get the cores while the model
  // waits for rows. All of them, so also every thread that calls Forward, run at nice 5, for the
  // same reason (engram/base/thread_role.h). No OpenMP team is started (oneDNN runs on one thread
  // inside each of ours), so OMP_WAIT_POLICY and the like do not matter.
  uint32_t threads = 1;
  // The ranks that compute the model together; this one has weights' part. Null = one rank.
  // OWNERSHIP: outlives the backend. Only rank 0's Forward writes logits.
  Collective* collective = nullptr;
};

// Takes the weights (packed for oneDNN; the originals are freed as it goes). Memory of the KV cache
// is reserved for every slot and position of `limits`, and committed as positions are filled.
//
// DETERMINISM: a sequence's logits have the same bits whatever shares its steps, however its
// prefill is cut, for any number of threads and for any number of ranks, on one machine (oneDNN
// picks its kernels by CPU).
//
// Engram may be off (null) or on per sequence, not change within one: the demo variant's
// convolution state would miss tokens.
// `config` is the whole model's, `weights` the rank's part (LoadWeights).
// ERRORS: kInvalidArgument (a number of ranks that the model does not allow, limits of 0, positions
// past config.positions_max, an Engram checkpoint with more than one branch: this worker has the
// plain residual stream), kResourceExhausted (the KV cache does not fit), kInternal (oneDNN).
[[nodiscard]] Result<std::unique_ptr<Backend>> CreateCpuBackend(const ModelConfig& config,
                                                                ModelWeights weights,
                                                                const CpuBackendOptions& options);

}  // namespace engram
