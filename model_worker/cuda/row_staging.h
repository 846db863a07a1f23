// Staged rows on their way to the GPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include <cuda_runtime_api.h>

#include "client/row_source.h"
#include "client/staging_memory.h"
#include "engram/base/status.h"
#include "model_worker/cuda/device_memory.h"
#include "model_worker/cuda/rank_events.h"

namespace engram::gpu {

// Pins the memory that row sources stage rows in, once, for as long as it is mapped. Thread-safe.
class PinnedStaging final : public StagingMemoryObserver {
 public:
  explicit PinnedStaging(int32_t device) : device_(device) {}
  // Memory that cannot be pinned (a limit of the system) is left alone: its rows take a copy more.
  void Mapped(std::span<std::byte> memory) override;
  void Unmapping(std::span<std::byte> memory) override;
  [[nodiscard]] bool Contains(std::span<const std::byte> rows) const;
  // Of memory that could not be pinned since the start, unmapped or not; and CUDA's words for the
  // first of it.
  [[nodiscard]] uint64_t unpinned_bytes() const;
  [[nodiscard]] std::string unpinned_why() const;

 private:
  const int32_t device_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::map<const std::byte*, size_t> ranges_;  // begin -> bytes
  uint64_t unpinned_bytes_ = 0;
  std::string unpinned_why_;
};

// A ring of device buffers, each for one layer's rows of one step. A buffer is filled on a stream
// of its own, read by what is enqueued on the compute stream, and filled again only after that was
// run: steps in flight never share one that is still being read. Thread-compatible.
class RowStaging {
 public:
  static constexpr uint32_t kBuffers = 3;

  struct Options {
    size_t layer_bytes_max = 0;  // of one layer's rows
    uint32_t tokens_max = 0;
    const PinnedStaging* pinned = nullptr;  // outlives this
    const RankEvents* events = nullptr;     // the same; null = of one rank
  };
  struct Staged {
    const std::byte* rows = nullptr;  // on the device
    const uint8_t* dead = nullptr;    // the same; null = none
    uint32_t buffer = 0;
  };

  [[nodiscard]] static Result<std::unique_ptr<RowStaging>> Create(const Options& options);

  // Puts the pieces' rows one behind the other. Starts a copy for each (one more where there are
  // dead positions); what is enqueued on `compute` from now on waits for them. Does not wait for
  // the GPU, unless all buffers' copies are still to be made.
  // OWNERSHIP: the rows must stay until FinishCopies, or until the GPU has run what reads them.
  [[nodiscard]] Result<Staged> Stage(std::span<const LayerRows> pieces, cudaStream_t compute);
  // Everything that reads the buffer is enqueued on `compute` by now.
  [[nodiscard]] Status Consumed(const Staged& staged, cudaStream_t compute);
  // Sleeps until no copy reads host memory any more, nor anything on the GPU rows that landed
  // there.
  [[nodiscard]] Status FinishCopies();

  // Pieces copied from where they were, and those that took a copy on the host first.
  [[nodiscard]] uint64_t pinned_count() const { return pinned_count_; }
  [[nodiscard]] uint64_t bounced_count() const { return bounced_count_; }
  [[nodiscard]] uint64_t byte_count() const { return byte_count_; }

 private:
  struct Buffer {
    DeviceArray<std::byte> rows;
    DeviceArray<uint8_t> dead;
    PinnedArray<std::byte> bounce_rows;  // made when first needed
    PinnedArray<uint8_t> bounce_dead;
    Event copied, consumed;
  };
  [[nodiscard]] Status Await(cudaEvent_t event, const char* what) const;
  // Where the GPU can copy the rows from; `offset` is theirs in the buffer.
  [[nodiscard]] Result<const std::byte*> HostRows(std::span<const std::byte> rows, size_t offset,
                                                  Buffer* buffer);
  [[nodiscard]] Status StageDead(std::span<const LayerRows> pieces, Buffer* buffer);

  Options options_;
  Stream copy_stream_;
  std::array<Buffer, kBuffers> buffers_;
  uint32_t next_ = 0;
  uint32_t last_ = 0;  // whose copy was enqueued last
  uint32_t last_consumed_ = 0;
  bool landed_ = false;  // since FinishCopies some ids were of rows that landed
  uint64_t pinned_count_ = 0, bounced_count_ = 0, byte_count_ = 0;
};

}  // namespace engram::gpu
