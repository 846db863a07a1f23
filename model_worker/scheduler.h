// Which tokens the next step computes: continuous batching as pure bookkeeping, without a clock, a
// thread or I/O.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "model_worker/backend.h"
#include "model_worker/generation_request.h"

namespace engram {

// One request that holds a sequence slot.
struct Sequence {
  RequestId id;
  SequenceSlot slot;
  GenerationRequest request;
  std::vector<TokenId> tokens;  // prompt, then what was generated
  uint32_t prompt_tokens = 0;
  uint32_t computed = 0;  // tokens that are in the KV cache
  uint32_t retries = 0;   // how often it was computed again because rows could not be had

  [[nodiscard]] uint32_t generated() const {
    return static_cast<uint32_t>(tokens.size()) - prompt_tokens;
  }
  // The last token is computed next and was just generated.
  [[nodiscard]] bool decoding() const { return generated() > 0 && computed + 1 == tokens.size(); }
};

// Consecutive tokens of one sequence in one step.
struct Chunk {
  Sequence* sequence = nullptr;
  uint32_t begin = 0;  // position of the first token
  uint32_t count = 0;
  bool decode = false;         // one generated token; else a piece of prefill
  bool logits_wanted = false;  // it ends at the sequence's last token
  Ticket ticket;               // reads its rows; 0 = none (yet)
  uint32_t ticket_token = 0;   // place of the first token among the ticket's tokens

  [[nodiscard]] uint32_t end() const { return begin + count; }
  [[nodiscard]] std::span<const TokenId> tokens() const {
    return std::span<const TokenId>(sequence->tokens).subspan(begin, count);
  }
};

// Prefill chunks are planned one step ahead, so that their rows can be read one step ahead; decode
// tokens join when they are known. Decode tokens go first, then prefill in order of admission, so
// nobody starves. Thread-compatible.
class Scheduler {
 public:
  struct Options {
    uint32_t sequences_max = 0;       // sequence slots
    uint32_t step_tokens_max = 0;     // >= sequences_max
    uint32_t prefill_tokens_max = 0;  // prefill tokens in one step, over all sequences
    // As Backend::Limits says; 0 = as many as the slots hold.
    uint64_t kv_tokens_max = 0;
    uint32_t kv_page_tokens = 1;
  };
  explicit Scheduler(const Options& options);

  // There is a slot, and room in the KV cache for all tokens that `sequence` may come to: what is
  // admitted is never sent back for want of room.
  [[nodiscard]] bool Fits(const Sequence& sequence) const;
  // What the KV cache must have room for, in whole pages.
  [[nodiscard]] uint64_t KvTokensOf(uint64_t prompt_tokens, uint64_t tokens_max) const;
  [[nodiscard]] uint64_t kv_tokens() const { return kv_tokens_; }  // of all that were admitted
  [[nodiscard]] size_t sequence_count() const { return sequences_.size(); }
  [[nodiscard]] std::span<const std::unique_ptr<Sequence>> sequences() const { return sequences_; }
  [[nodiscard]] Sequence* Find(RequestId id);

  // Gives `sequence` a slot. Precondition: Fits, sequence->tokens not empty.
  Sequence& Admit(std::unique_ptr<Sequence> sequence);
  // Takes a sequence out of everything planned and frees its slot.
  std::unique_ptr<Sequence> Remove(RequestId id);
  // Starts a sequence over: all its tokens so far are prefilled again.
  void Restart(Sequence& sequence);

  // The chunks of the next step: first those planned ahead, then decode tokens, then further
  // prefill. Each sequence at most once; at most step_tokens_max tokens. Empty = nothing to do.
  // Pointers to sequences are valid until Remove.
  [[nodiscard]] std::vector<Chunk> PlanStep();
  // Plans the prefill of the step after `step`, leaving room for every decode token that step can
  // bring. Call once between PlanStep and Complete. The result is owned by the scheduler and
  // changes with Remove, Restart and PlanStep; the caller notes its tickets in it.
  [[nodiscard]] std::span<Chunk> PlanAhead(std::span<const Chunk> step);
  [[nodiscard]] std::span<Chunk> ahead() { return ahead_; }
  // Notes that the step was computed.
  void Complete(std::span<const Chunk> step);

 private:
  // ChunkOf gives these from now on, until they move.
  void NoteChunks(std::span<const Chunk> chunks);
  // Null = it has none.
  [[nodiscard]] const Chunk* ChunkOf(const Sequence& sequence) const {
    return chunk_of_slot_[sequence.slot.value()];
  }
  void AddPrefill(Sequence& sequence, uint32_t begin, uint32_t* budget, std::vector<Chunk>* chunks);

  Options options_;
  std::vector<std::unique_ptr<Sequence>> sequences_;  // in order of admission
  std::vector<SequenceSlot> free_slots_;
  uint64_t kv_tokens_ = 0;
  std::vector<Chunk> ahead_;
  std::vector<const Chunk*> chunk_of_slot_;  // [sequences_max]
};

}  // namespace engram
