#include "model_worker/cuda/row_staging.h"

#include <cstring>
#include <utility>

#include "engram/base/check.h"

namespace engram::gpu {

void PinnedStaging::Mapped(std::span<std::byte> memory) {
  (void)cudaSetDevice(device_);
  const cudaError_t error =
      cudaHostRegister(memory.data(), memory.size(), cudaHostRegisterPortable);
  const std::lock_guard lock(mutex_);
  if (error != cudaSuccess) {
    (void)cudaGetLastError();
    if (unpinned_bytes_ == 0) unpinned_why_ = cudaGetErrorString(error);
    unpinned_bytes_ += memory.size();
    return;
  }
  ranges_[memory.data()] = memory.size();
}

void PinnedStaging::Unmapping(std::span<std::byte> memory) {
  const std::lock_guard lock(mutex_);
  if (ranges_.erase(memory.data()) == 0) return;
  (void)cudaSetDevice(device_);
  (void)cudaHostUnregister(memory.data());
}

bool PinnedStaging::Contains(std::span<const std::byte> rows) const {
  const std::lock_guard lock(mutex_);
  auto after = ranges_.upper_bound(rows.data());
  if (after == ranges_.begin()) return false;
  const auto& [begin, bytes] = *--after;
  return rows.data() + rows.size() <= begin + bytes;
}

uint64_t PinnedStaging::unpinned_bytes() const {
  const std::lock_guard lock(mutex_);
  return unpinned_bytes_;
}

std::string PinnedStaging::unpinned_why() const {
  const std::lock_guard lock(mutex_);
  return unpinned_why_;
}

Result<std::unique_ptr<RowStaging>> RowStaging::Create(const Options& options) {
  auto staging = std::make_unique<RowStaging>();
  staging->options_ = options;
  ENGRAM_ASSIGN_OR_RETURN(staging->copy_stream_, MakeStream());
  for (Buffer& buffer : staging->buffers_) {
    ENGRAM_ASSIGN_OR_RETURN(
        buffer.rows, DeviceArray<std::byte>::Create(options.layer_bytes_max, "staged Engram rows"));
    ENGRAM_ASSIGN_OR_RETURN(buffer.dead,
                            DeviceArray<uint8_t>::Create(options.tokens_max, "staged Engram rows"));
    ENGRAM_ASSIGN_OR_RETURN(buffer.bounce_dead,
                            PinnedArray<uint8_t>::Create(options.tokens_max, "staged Engram rows"));
    ENGRAM_ASSIGN_OR_RETURN(buffer.copied, MakeEvent());
    ENGRAM_ASSIGN_OR_RETURN(buffer.consumed, MakeEvent());
  }
  return staging;
}

Status RowStaging::Await(cudaEvent_t event, const char* what) const {
  if (options_.events != nullptr) return options_.events->Await(event, what);
  return CudaStatus(cudaEventSynchronize(event), what);
}

Result<const std::byte*> RowStaging::HostRows(std::span<const std::byte> rows, size_t offset,
                                              Buffer* buffer) {
  if (options_.pinned != nullptr && options_.pinned->Contains(rows)) {
    ++pinned_count_;
    return rows.data();
  }
  if (buffer->bounce_rows.size() == 0) {
    ENGRAM_ASSIGN_OR_RETURN(
        buffer->bounce_rows,
        PinnedArray<std::byte>::Create(options_.layer_bytes_max, "staged Engram rows"));
  }
  ++bounced_count_;
  std::byte* const bounced = buffer->bounce_rows.data() + offset;
  std::memcpy(bounced, rows.data(), rows.size());
  return bounced;
}

Result<RowStaging::Staged> RowStaging::Stage(std::span<const LayerRows> pieces,
                                             cudaStream_t compute) {
  const uint32_t index = next_;
  next_ = (next_ + 1) % kBuffers;
  Buffer& buffer = buffers_[index];
  // Its bounce buffers are about to be written; the copy was kBuffers layers ago.
  ENGRAM_TRY(Await(buffer.copied.get(), "awaiting a copy of rows"));
  cudaStream_t stream = copy_stream_.get();
  ENGRAM_TRY(CudaStatus(cudaStreamWaitEvent(stream, buffer.consumed.get(), 0), "ordering copies"));
  size_t bytes = 0;
  bool any_dead = false;
  for (const LayerRows& piece : pieces) {
    ENGRAM_CHECK(bytes + piece.rows.size() <= options_.layer_bytes_max);
    ENGRAM_ASSIGN_OR_RETURN(const std::byte* host, HostRows(piece.rows, bytes, &buffer));
    ENGRAM_TRY(CudaStatus(cudaMemcpyAsync(buffer.rows.data() + bytes, host, piece.rows.size(),
                                          cudaMemcpyHostToDevice, stream),
                          "copying Engram rows"));
    bytes += piece.rows.size();
    any_dead |= !piece.dead.empty();
    landed_ |= piece.landed.rows != nullptr;
  }
  byte_count_ += bytes;
  Staged staged;
  staged.rows = buffer.rows.data();
  staged.buffer = index;
  if (any_dead) {
    ENGRAM_TRY(StageDead(pieces, &buffer));
    staged.dead = buffer.dead.data();
  }
  ENGRAM_TRY(CudaStatus(cudaEventRecord(buffer.copied.get(), stream), "recording a copy"));
  ENGRAM_TRY(CudaStatus(cudaStreamWaitEvent(compute, buffer.copied.get(), 0), "ordering copies"));
  last_ = index;
  return staged;
}

Status RowStaging::StageDead(std::span<const LayerRows> pieces, Buffer* buffer) {
  uint8_t* const begin = buffer->bounce_dead.data();
  size_t tokens = 0;
  for (const LayerRows& piece : pieces) {
    ENGRAM_CHECK(tokens + piece.token_count <= options_.tokens_max);
    if (piece.dead.empty()) {
      std::memset(begin + tokens, 0, piece.token_count);
    } else {
      std::memcpy(begin + tokens, piece.dead.data(), piece.token_count);
    }
    tokens += piece.token_count;
  }
  return CudaStatus(cudaMemcpyAsync(buffer->dead.data(), begin, tokens, cudaMemcpyHostToDevice,
                                    copy_stream_.get()),
                    "copying a dead mask");
}

Status RowStaging::Consumed(const Staged& staged, cudaStream_t compute) {
  last_consumed_ = staged.buffer;
  return CudaStatus(cudaEventRecord(buffers_[staged.buffer].consumed.get(), compute),
                    "recording that rows were read");
}

Status RowStaging::FinishCopies() {
  // Copies run in order, and so does what reads the rows.
  ENGRAM_RETURN_IF_ERROR(Await(buffers_[last_].copied.get(), "awaiting copies of rows"));
  if (!std::exchange(landed_, false)) return {};
  return Await(buffers_[last_consumed_].consumed.get(), "awaiting what reads landed rows");
}

}  // namespace engram::gpu
