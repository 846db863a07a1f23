#include "client/staging_ring.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include <sys/mman.h>

#include "engram/base/check.h"

namespace engram {
namespace {

// A ticket is a sequence number and its buffer's place.
constexpr uint32_t kIndexBits = 16;
constexpr size_t kHugePageBytes = size_t{2} << 20;

int64_t Nanoseconds(MonotonicTime time) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

}  // namespace

Result<std::unique_ptr<StagingRing>> StagingRing::Create(const Options& options) {
  if (options.layer_count <= 0 || options.column_count <= 0 || options.row_bytes == 0 ||
      options.tokens_max == 0 || options.buffer_count == 0 || options.part_count == 0 ||
      options.buffer_count >= (1u << kIndexBits)) {
    return Error(StatusCode::kInvalidArgument,
                 "staging ring: layers, columns, row bytes, tokens, buffers and parts must all be "
                 "positive (and buffers below 65536)");
  }
  auto ring = std::unique_ptr<StagingRing>(new StagingRing(options));
  const size_t layer_bytes =
      size_t{options.tokens_max} * static_cast<size_t>(options.column_count) * options.row_bytes;
  const size_t buffer_bytes =
      (layer_bytes * static_cast<size_t>(options.layer_count) + 4095) / 4096 * 4096;
  ring->memory_bytes_ =
      (buffer_bytes * options.buffer_count + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  void* memory = mmap(nullptr, ring->memory_bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return Error(StatusCode::kResourceExhausted,
                 "staging ring: cannot map " + std::to_string(ring->memory_bytes_) + " bytes (" +
                     std::strerror(errno) + "): use fewer or smaller staging buffers");
  }
  ring->memory_ = static_cast<std::byte*>(memory);
  (void)madvise(memory, ring->memory_bytes_, MADV_HUGEPAGE);  // only faster: no error if refused
  for (uint32_t i = 0; i < options.buffer_count; ++i) {
    auto buffer = std::make_unique<StagingBuffer>();
    buffer->index = i;
    buffer->rows_begin = ring->memory_ + size_t{i} * buffer_bytes;
    buffer->layer_stride_bytes = layer_bytes;
    buffer->layers =
        std::make_unique<StagingBuffer::Layer[]>(static_cast<size_t>(options.layer_count));
    buffer->runs.reserve(options.tokens_max);
    buffer->tokens.reserve(options.tokens_max);
    buffer->dead_bytes.reserve(options.tokens_max);
    buffer->history.reserve(size_t{options.tokens_max} * options.history_max);
    buffer->history_dead.reserve(size_t{options.tokens_max} * options.history_max);
    ring->buffers_.push_back(std::move(buffer));
    ring->free_.push_back(options.buffer_count - 1 - i);
  }
  // Buffers are taken from the first on, and a caller that reads ahead has two: a first batch need
  // not wait for the kernel to clear their pages. Only faster: no error if refused.
  (void)madvise(memory, std::min(ring->memory_bytes_, 2 * buffer_bytes), MADV_POPULATE_WRITE);
  if (options.observer != nullptr) options.observer->Mapped({ring->memory_, ring->memory_bytes_});
  return ring;
}

StagingRing::~StagingRing() {
  if (memory_ == nullptr) return;
  if (options_.observer != nullptr) options_.observer->Unmapping({memory_, memory_bytes_});
  munmap(memory_, memory_bytes_);
}

Result<StagingBuffer*> StagingRing::Acquire(std::span<const TokenRun> runs, MonotonicTime deadline,
                                            bool striped) {
  size_t token_count = 0;
  for (const TokenRun& run : runs) token_count += run.tokens.size();
  if (token_count == 0 || token_count > options_.tokens_max) {
    return Error(StatusCode::kInvalidArgument,
                 "a batch of " + std::to_string(token_count) + " tokens: it must hold 1 to " +
                     std::to_string(options_.tokens_max) + " (batch_tokens_max)");
  }
  StagingBuffer* buffer = nullptr;
  uint64_t ticket = 0;
  {
    std::unique_lock lock(mutex_);
    if (free_.empty() && draining_ > 0) {
      freed_.wait_for(lock, kDrainWait, [this] { return !free_.empty(); });
    }
    if (free_.empty()) {
      return Error(StatusCode::kResourceExhausted,
                   "all " + std::to_string(options_.buffer_count) +
                       " staging buffers hold a ticket: release one first, or ask for more "
                       "staging buffers");
    }
    buffer = buffers_[free_.back()].get();
    free_.pop_back();
    ticket = (next_sequence_++ << kIndexBits) | buffer->index;
  }
  CopyBatch(runs, *buffer);
  buffer->deadline = deadline;
  buffer->striped = striped;
  for (int32_t i = 0; i < options_.layer_count; ++i) {
    StagingBuffer::Layer& layer = buffer->layers[static_cast<size_t>(i)];
    layer.parts_left.store(options_.part_count, std::memory_order_relaxed);
    layer.ids_known_ns.store(INT64_MAX, std::memory_order_relaxed);
    layer.ready_ns.store(0, std::memory_order_relaxed);
    layer.awaited = false;
    const std::lock_guard lock(buffer->failure_mutex);
    layer.failure = Status();
  }
  buffer->holders.store(options_.part_count + 1, std::memory_order_relaxed);
  buffer->ticket.store(ticket, std::memory_order_release);
  return buffer;
}

void StagingRing::CopyBatch(std::span<const TokenRun> runs, StagingBuffer& buffer) const {
  buffer.runs.clear();
  buffer.tokens.clear();
  buffer.history.clear();
  buffer.dead_bytes.clear();
  buffer.history_dead.clear();
  bool any_dead = false;
  for (const TokenRun& run : runs) any_dead = any_dead || !run.tokens_dead.empty();
  for (const TokenRun& run : runs) {
    if (run.tokens.empty()) continue;
    TokenRun copy;
    const size_t kept = std::min<size_t>(run.history.size(), options_.history_max);
    const auto history = run.history.last(kept);
    // Within the capacity reserved in Create, so that no span moves.
    const TokenId* history_at = buffer.history.data() + buffer.history.size();
    buffer.history.insert(buffer.history.end(), history.begin(), history.end());
    copy.history = {history_at, kept};
    if (!run.history_dead.empty()) {
      const auto dead = run.history_dead.last(kept);
      const uint8_t* at = buffer.history_dead.data() + buffer.history_dead.size();
      buffer.history_dead.insert(buffer.history_dead.end(), dead.begin(), dead.end());
      copy.history_dead = {at, kept};
    }
    const TokenId* tokens_at = buffer.tokens.data() + buffer.tokens.size();
    buffer.tokens.insert(buffer.tokens.end(), run.tokens.begin(), run.tokens.end());
    copy.tokens = {tokens_at, run.tokens.size()};
    if (any_dead) {
      const uint8_t* at = buffer.dead_bytes.data() + buffer.dead_bytes.size();
      if (run.tokens_dead.empty()) {
        buffer.dead_bytes.insert(buffer.dead_bytes.end(), run.tokens.size(), uint8_t{0});
      } else {
        for (const uint8_t d : run.tokens_dead) {
          buffer.dead_bytes.push_back(d != 0 ? uint8_t{1} : uint8_t{0});
        }
        copy.tokens_dead = {at, run.tokens.size()};
      }
    }
    buffer.runs.push_back(copy);
  }
  buffer.token_count = static_cast<uint32_t>(buffer.tokens.size());
  buffer.dead = buffer.dead_bytes;
}

StagingBuffer* StagingRing::Find(Ticket ticket) {
  const auto index = static_cast<uint32_t>(ticket.value() & ((1u << kIndexBits) - 1));
  if (index >= buffers_.size() || ticket.value() == 0) return nullptr;
  StagingBuffer* buffer = buffers_[index].get();
  return buffer->ticket.load(std::memory_order_acquire) == ticket.value() ? buffer : nullptr;
}

void StagingRing::NoteIdsKnown(StagingBuffer& buffer, int32_t layer_index, MonotonicTime now) {
  auto& known = buffer.layers[static_cast<size_t>(layer_index)].ids_known_ns;
  const int64_t at = Nanoseconds(now);
  int64_t before = known.load(std::memory_order_relaxed);
  while (at < before && !known.compare_exchange_weak(before, at, std::memory_order_relaxed)) {
  }
}

void StagingRing::FinishPart(StagingBuffer& buffer, int32_t layer_index, MonotonicTime now,
                             const Status& status) {
  StagingBuffer::Layer& layer = buffer.layers[static_cast<size_t>(layer_index)];
  if (!status.ok()) {
    const std::lock_guard lock(buffer.failure_mutex);
    if (layer.failure.ok()) layer.failure = status;
  }
  const int64_t at = Nanoseconds(now);
  int64_t before = layer.ready_ns.load(std::memory_order_relaxed);
  while (at > before &&
         !layer.ready_ns.compare_exchange_weak(before, at, std::memory_order_relaxed)) {
  }
  if (layer.parts_left.fetch_sub(1, std::memory_order_acq_rel) == 1) layer.parts_left.notify_all();
}

void StagingRing::DropPart(StagingBuffer& buffer) { DropHolder(buffer); }

bool StagingRing::Ready(const StagingBuffer& buffer, int32_t layer_index) {
  return buffer.layers[static_cast<size_t>(layer_index)].parts_left.load(
             std::memory_order_acquire) == 0;
}

void StagingRing::WaitReady(StagingBuffer& buffer, int32_t layer_index) {
  auto& left = buffer.layers[static_cast<size_t>(layer_index)].parts_left;
  uint32_t now_left = left.load(std::memory_order_acquire);
  while (now_left != 0) {
    left.wait(now_left, std::memory_order_acquire);
    now_left = left.load(std::memory_order_acquire);
  }
}

Status StagingRing::LayerStatus(StagingBuffer& buffer, int32_t layer_index) {
  const std::lock_guard lock(buffer.failure_mutex);
  return buffer.layers[static_cast<size_t>(layer_index)].failure;
}

bool StagingRing::Release(StagingBuffer& buffer) {
  buffer.ticket.store(0, std::memory_order_release);
  {
    const std::lock_guard lock(mutex_);
    ++draining_;
  }
  const bool filling = buffer.holders.load(std::memory_order_acquire) > 1;
  DropHolder(buffer);
  return filling;
}

void StagingRing::DropHolder(StagingBuffer& buffer) {
  const uint32_t before = buffer.holders.fetch_sub(1, std::memory_order_acq_rel);
  ENGRAM_CHECK(before != 0);
  if (before != 1) return;
  {
    const std::lock_guard lock(mutex_);
    --draining_;
    free_.push_back(buffer.index);
  }
  freed_.notify_one();
}

}  // namespace engram
