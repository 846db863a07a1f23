#include "model_worker/scheduler.h"

#include <algorithm>
#include <utility>

#include "engram/base/check.h"

namespace engram {
namespace {

uint32_t TokenCount(std::span<const Chunk> chunks) {
  uint32_t count = 0;
  for (const Chunk& chunk : chunks) count += chunk.count;
  return count;
}

}  // namespace

std::string_view FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kError:
      return "error";
  }
  return "error";
}

Scheduler::Scheduler(const Options& options)
    : options_(options), chunk_of_slot_(options.sequences_max, nullptr) {
  ENGRAM_CHECK(options.sequences_max > 0);
  ENGRAM_CHECK(options.step_tokens_max >= options.sequences_max);
  ENGRAM_CHECK(options.prefill_tokens_max > 0);
  // Taken from the back: slot 0 first.
  for (uint32_t slot = options.sequences_max; slot > 0; --slot) {
    free_slots_.emplace_back(slot - 1);
  }
}

Sequence* Scheduler::Find(RequestId id) {
  for (auto& sequence : sequences_) {
    if (sequence->id == id) return sequence.get();
  }
  return nullptr;
}

uint64_t Scheduler::KvTokensOf(uint64_t prompt_tokens, uint64_t tokens_max) const {
  const uint64_t page = options_.kv_page_tokens;
  return (prompt_tokens + tokens_max + page - 1) / page * page;
}

bool Scheduler::Fits(const Sequence& sequence) const {
  if (free_slots_.empty()) return false;
  if (options_.kv_tokens_max == 0) return true;
  return kv_tokens_ + KvTokensOf(sequence.prompt_tokens, sequence.request.tokens_max) <=
         options_.kv_tokens_max;
}

Sequence& Scheduler::Admit(std::unique_ptr<Sequence> sequence) {
  ENGRAM_CHECK(Fits(*sequence));
  ENGRAM_CHECK(!sequence->tokens.empty());
  sequence->slot = free_slots_.back();
  free_slots_.pop_back();
  kv_tokens_ += KvTokensOf(sequence->prompt_tokens, sequence->request.tokens_max);
  sequences_.push_back(std::move(sequence));
  return *sequences_.back();
}

std::unique_ptr<Sequence> Scheduler::Remove(RequestId id) {
  const auto it = std::find_if(sequences_.begin(), sequences_.end(),
                               [id](const auto& sequence) { return sequence->id == id; });
  if (it == sequences_.end()) return nullptr;
  std::unique_ptr<Sequence> removed = std::move(*it);
  sequences_.erase(it);
  kv_tokens_ -= KvTokensOf(removed->prompt_tokens, removed->request.tokens_max);
  std::erase_if(ahead_, [&](const Chunk& chunk) { return chunk.sequence == removed.get(); });
  free_slots_.push_back(removed->slot);
  return removed;
}

void Scheduler::Restart(Sequence& sequence) {
  sequence.computed = 0;
  std::erase_if(ahead_, [&](const Chunk& chunk) { return chunk.sequence == &sequence; });
}

void Scheduler::AddPrefill(Sequence& sequence, uint32_t begin, uint32_t* budget,
                           std::vector<Chunk>* chunks) {
  const auto size = static_cast<uint32_t>(sequence.tokens.size());
  Chunk chunk;
  chunk.sequence = &sequence;
  chunk.begin = begin;
  chunk.count = std::min(size - begin, *budget);
  chunk.logits_wanted = chunk.end() == size;
  *budget -= chunk.count;
  chunks->push_back(chunk);
}

void Scheduler::NoteChunks(std::span<const Chunk> chunks) {
  std::fill(chunk_of_slot_.begin(), chunk_of_slot_.end(), nullptr);
  for (const Chunk& chunk : chunks) chunk_of_slot_[chunk.sequence->slot.value()] = &chunk;
}

std::vector<Chunk> Scheduler::PlanStep() {
  std::vector<Chunk> step = std::exchange(ahead_, {});
  NoteChunks(step);
  const uint32_t ahead_tokens = TokenCount(step);
  uint32_t budget = options_.step_tokens_max - ahead_tokens;
  for (const auto& sequence : sequences_) {
    if (!sequence->decoding() || budget == 0) continue;
    Chunk chunk;
    chunk.sequence = sequence.get();
    chunk.begin = sequence->computed;
    chunk.count = 1;
    chunk.decode = true;
    chunk.logits_wanted = true;
    step.push_back(chunk);
    --budget;
  }
  uint32_t prefill_budget = std::min(
      budget, options_.prefill_tokens_max - std::min(options_.prefill_tokens_max, ahead_tokens));
  for (const auto& sequence : sequences_) {
    if (prefill_budget == 0) break;
    // What was planned ahead is in the step already.
    if (sequence->decoding() || ChunkOf(*sequence) != nullptr) continue;
    AddPrefill(*sequence, sequence->computed, &prefill_budget, &step);
  }
  return step;
}

std::span<Chunk> Scheduler::PlanAhead(std::span<const Chunk> step) {
  ENGRAM_CHECK(ahead_.empty());
  uint32_t decode_tokens = 0;
  for (const Chunk& chunk : step) {
    if (chunk.logits_wanted &&
        chunk.sequence->generated() + 1 < chunk.sequence->request.tokens_max) {
      ++decode_tokens;
    }
  }
  uint32_t budget = std::min(options_.step_tokens_max - decode_tokens, options_.prefill_tokens_max);
  NoteChunks(step);
  for (const auto& sequence : sequences_) {
    if (budget == 0) break;
    const Chunk* now = ChunkOf(*sequence);
    // A sequence that `step` brings to its end has nothing known to compute after it.
    if (now != nullptr && now->logits_wanted) continue;
    AddPrefill(*sequence, now == nullptr ? sequence->computed : now->end(), &budget, &ahead_);
  }
  return ahead_;
}

void Scheduler::Complete(std::span<const Chunk> step) {
  for (const Chunk& chunk : step) {
    ENGRAM_CHECK(chunk.sequence->computed == chunk.begin);
    chunk.sequence->computed = chunk.end();
  }
}

}  // namespace engram
