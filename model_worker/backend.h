// What computes the Transformer: cpu/ or cuda/. The engine (model_worker/engine) drives it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/row_source.h"
#include "client/staging_memory.h"
#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"
#include "model_worker/sampling.h"

namespace engram {

// A place in the backend's KV cache (and, demo variant, its convolution state). 0..sequences_max-1.
using SequenceSlot = StrongId<struct SequenceSlotTag, uint32_t>;

// Some consecutive tokens of one sequence: a prefill chunk, or one decode token.
struct SequenceStep {
  SequenceSlot slot;
  uint32_t position = 0;            // of tokens[0] in the sequence; all before are in the KV cache
  std::span<const TokenId> tokens;  // at least one
  bool logits_wanted = false;       // of the last token
};

// Tokens of one ticket (RowSource) that follow each other in the step too.
struct RowPiece {
  Ticket ticket;
  uint32_t first_token = 0;  // in the ticket
  uint32_t token_count = 0;
};

// Gives a layer's rows at the moment the layer consumes them, and not before: the backend calls it
// at the consuming layer, so that the read hides behind the layers before it.
class EngramRows {
 public:
  virtual ~EngramRows() = default;
  // Rows for all tokens of the step, in order, in as many pieces as they were read in: each
  // [tokens][columns][row_bytes]. The rows are valid until Forward returns, the list of pieces
  // until the next call. An error ends the Forward with that error.
  [[nodiscard]] virtual Result<std::span<const LayerRows>> Rows(int32_t layer_index) = 0;
  // What the rows are made of, in the order of the step's tokens, for a backend that has other
  // ranks compute the step too; empty: of no tickets.
  [[nodiscard]] virtual std::span<const RowPiece> pieces() const { return {}; }
};

// Thread-compatible: one thread drives a backend; it may use more threads inside.
class Backend {
 public:
  struct Limits {
    uint32_t sequences_max = 0;        // sequence slots
    uint32_t sequence_tokens_max = 0;  // positions per slot
    uint32_t step_tokens_max = 0;      // tokens in one Forward
    // Tokens in the KV cache, over all slots; 0 = all slots filled to the end.
    uint64_t kv_tokens_max = 0;
    // Of which a slot takes a multiple of this: the backend says so, whoever makes it need not.
    uint32_t kv_page_tokens = 1;
  };
  virtual ~Backend() = default;

  [[nodiscard]] virtual const Limits& limits() const = 0;
  [[nodiscard]] virtual int32_t vocabulary_size() const = 0;
  // Parameters without embedding and output matrices.
  [[nodiscard]] virtual uint64_t parameters_non_embedding() const = 0;
  // What it computes on, for reports: "NVIDIA H200".
  [[nodiscard]] virtual std::string hardware() const = 0;

  // Forgets what a slot holds; a sequence that starts at position 0 needs it first.
  virtual void ResetSlot(SequenceSlot slot) = 0;

  // One step of many sequences, each at most once.
  //   engram   null = Engram off; else asked once per Engram layer, in layer order
  //   logits   written: [steps with logits_wanted, in order][vocabulary_size] fp32
  // The result for one sequence does not depend on which others share the step: on the CPU not by a
  // bit, on the GPU but for rounding (cuda/cuda_backend.h).
  // ERRORS: kInvalidArgument (a bound of limits(), a token id outside the vocabulary, a position
  // that does not follow), kResourceExhausted (a KV cache smaller than all slots need is full:
  // reset a slot), or what `engram` gave. After an error the slots of the step are unspecified:
  // reset them.
  [[nodiscard]] virtual Status Forward(std::span<const SequenceStep> steps, EngramRows* engram,
                                       std::vector<float>* logits) = 0;

  // Forward, and the token after each step with logits_wanted: where the logits are, so that a
  // GPU's need not travel. The tokens are those of Sampler, but for rounding on a GPU
  // (cuda/sampling.cu).
  //   draws   of the steps with logits_wanted, in order
  //   tokens  written: the same; kNoToken where there was none to draw
  [[nodiscard]] virtual Status ForwardAndSample(std::span<const SequenceStep> steps,
                                                EngramRows* engram, const StepDraws& draws,
                                                std::vector<TokenId>* tokens);

  // Who wants to know the memory of the row sources that feed this backend; null = nobody. It must
  // be given to them when they are made, and the backend must outlive them.
  [[nodiscard]] virtual StagingMemoryObserver* staging_observer() { return nullptr; }

 private:
  // Of ForwardAndSample on the host.
  Sampler sampler_;
  std::vector<float> logits_;
};

}  // namespace engram
