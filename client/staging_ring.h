// The fixed ring of buffers that rows are scattered into, and the tickets that hold them.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "client/row_source.h"
#include "client/staging_memory.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"

namespace engram {

// One batch: a copy of its tokens, room for its rows, and how far each layer is.
// The caller's thread fills in the batch before the fill threads see it; after that a fill thread
// writes only rows of its part, and only until it drops the part (StagingRing::DropPart).
struct StagingBuffer {
  struct Layer {
    std::atomic<uint32_t> parts_left{0};   // 0: every part's rows are there, or failed
    std::atomic<int64_t> ids_known_ns{0};  // the first part's time of knowing the row ids
    std::atomic<int64_t> ready_ns{0};      // the last part's time of completion
    bool awaited = false;                  // by the ticket's thread
    Status failure;                        // guarded by StagingBuffer::failure_mutex
  };

  uint32_t index = 0;               // place in the ring
  std::atomic<uint64_t> ticket{0};  // 0 = free
  uint32_t token_count = 0;
  std::vector<TokenRun> runs;     // spans into this buffer's own copies
  std::span<const uint8_t> dead;  // [token_count], or empty = none
  bool striped = false;           // only the columns of the source's stripe are read
  MonotonicTime deadline;
  MonotonicTime prefetched_at;  // when Prefetch returned
  std::unique_ptr<Layer[]> layers;
  std::mutex failure_mutex;

  [[nodiscard]] std::byte* rows(int32_t layer_index) const {
    return rows_begin + static_cast<size_t>(layer_index) * layer_stride_bytes;
  }

 private:
  friend class StagingRing;
  std::byte* rows_begin = nullptr;  // [layers][tokens_max][columns][row_bytes], owned by the ring
  size_t layer_stride_bytes = 0;
  std::atomic<uint32_t> holders{0};  // the ticket, and every part still being filled
  std::vector<TokenId> tokens;       // [tokens_max]
  std::vector<TokenId> history;      // [tokens_max * history_max]
  std::vector<uint8_t> dead_bytes;   // [tokens_max]
  std::vector<uint8_t> history_dead;
};

// Thread-safe. Nothing is allocated after Create. A buffer is used again only when its ticket was
// released and every fill thread has dropped its part of it.
class StagingRing {
 public:
  struct Options {
    int32_t layer_count = 0;
    int32_t column_count = 0;
    uint32_t row_bytes = 0;
    uint32_t tokens_max = 0;                    // in one batch
    uint32_t history_max = 0;                   // look-back tokens kept of each run
    uint32_t buffer_count = 0;                  // batches at once
    uint32_t part_count = 1;                    // threads that fill a buffer together
    StagingMemoryObserver* observer = nullptr;  // told of the ring's memory; may be null
  };
  // Release that meets a buffer still being filled gives it back a moment later: Acquire waits that
  // long for it.
  static constexpr std::chrono::milliseconds kDrainWait{200};

  // ERRORS: kInvalidArgument (a zero), kResourceExhausted with the bytes asked for.
  [[nodiscard]] static Result<std::unique_ptr<StagingRing>> Create(const Options& options);
  ~StagingRing();
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;

  [[nodiscard]] const Options& options() const { return options_; }
  [[nodiscard]] size_t memory_bytes() const { return memory_bytes_; }

  // Takes a free buffer and copies the batch into it; gives it a new ticket. Precondition: the runs
  // passed NgramHasher::Validate.
  // ERRORS: kInvalidArgument (no token, or more than tokens_max), kResourceExhausted.
  [[nodiscard]] Result<StagingBuffer*> Acquire(std::span<const TokenRun> runs,
                                               MonotonicTime deadline, bool striped = false);
  // Null when the ticket does not hold a buffer (any more).
  [[nodiscard]] StagingBuffer* Find(Ticket ticket);
  [[nodiscard]] StagingBuffer& buffer(uint32_t index) { return *buffers_[index]; }

  // -- fill threads: each layer of each part is finished exactly once, unless the part is dropped.
  static void NoteIdsKnown(StagingBuffer& buffer, int32_t layer_index, MonotonicTime now);
  // The first failure of a layer is kept.
  static void FinishPart(StagingBuffer& buffer, int32_t layer_index, MonotonicTime now,
                         const Status& status = {});
  // The thread will not touch the buffer again. Last call of a part.
  void DropPart(StagingBuffer& buffer);

  // -- the ticket's thread
  // True if the layer is complete (or failed) now.
  [[nodiscard]] static bool Ready(const StagingBuffer& buffer, int32_t layer_index);
  // Sleeps until it is. The fill threads end every layer at its deadline at the latest.
  static void WaitReady(StagingBuffer& buffer, int32_t layer_index);
  // Precondition: Ready.
  [[nodiscard]] static Status LayerStatus(StagingBuffer& buffer, int32_t layer_index);
  // Ends the ticket. True: parts are still being filled, and their threads should be told to drop
  // them.
  [[nodiscard]] bool Release(StagingBuffer& buffer);

 private:
  explicit StagingRing(const Options& options) : options_(options) {}
  void CopyBatch(std::span<const TokenRun> runs, StagingBuffer& buffer) const;
  void DropHolder(StagingBuffer& buffer);

  const Options options_;
  std::byte* memory_ = nullptr;  // mapped
  size_t memory_bytes_ = 0;
  std::vector<std::unique_ptr<StagingBuffer>> buffers_;
  std::mutex mutex_;
  std::condition_variable freed_;
  std::vector<uint32_t> free_;  // guarded by mutex_; a stack: warm memory first
  uint32_t draining_ = 0;       // guarded by mutex_; released, but still being filled
  uint64_t next_sequence_ = 1;  // guarded by mutex_
};

}  // namespace engram
