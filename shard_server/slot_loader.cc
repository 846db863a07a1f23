#include "shard_server/slot_loader.h"

#include <algorithm>
#include <cinttypes>
#include <condition_variable>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>

#include <spdlog/spdlog.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "engram/table/stored_row.h"
#include "shard_server/byte_text.h"
#include "shard_server/load_plan.h"
#include "shard_server/slot_memory.h"

namespace engram {
namespace {

// Rows interleaved and sealed before they are hashed: they stay in the first-level cache.
constexpr uint32_t kBlockBytes = 16u << 10;
// How often a paused load looks whether it may go on.
constexpr auto kPausePoll = std::chrono::milliseconds(10);

// Bounce buffers between the thread that reads and the thread that works. Chunk i uses buffer
// i mod n. Thread-safe.
//
// Invariant: worked_ <= filled_ <= worked_ + n.
class BouncePipe {
 public:
  BouncePipe(uint32_t buffer_count, uint64_t buffer_bytes)
      : buffer_bytes_(buffer_bytes), buffers_(buffer_count) {
    for (auto& buffer : buffers_) {
      buffer = std::make_unique_for_overwrite<std::byte[]>(buffer_bytes);
    }
  }

  // Reader: the buffer of the next chunk, empty span when the load has stopped.
  std::span<std::byte> AwaitEmpty() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return stopped_ || filled_ < worked_ + buffers_.size(); });
    if (stopped_) return {};
    return {buffers_[filled_ % buffers_.size()].get(), buffer_bytes_};
  }
  void Filled(Status status) {
    {
      const std::lock_guard lock(mutex_);
      if (status.ok()) {
        ++filled_;
      } else {
        read_status_ = std::move(status);
      }
    }
    changed_.notify_all();
  }
  // Worker: the oldest filled buffer, or why there will be none.
  Result<const std::byte*> AwaitFilled() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return filled_ > worked_ || !read_status_.ok(); });
    if (filled_ > worked_) return buffers_[worked_ % buffers_.size()].get();
    return Error(read_status_);
  }
  void Worked() {
    {
      const std::lock_guard lock(mutex_);
      ++worked_;
    }
    changed_.notify_all();
  }
  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      stopped_ = true;
    }
    changed_.notify_all();
  }

 private:
  const uint64_t buffer_bytes_;
  std::vector<std::unique_ptr<std::byte[]>> buffers_;
  std::mutex mutex_;
  std::condition_variable changed_;
  uint64_t filled_ = 0;
  uint64_t worked_ = 0;
  bool stopped_ = false;
  Status read_status_;
};

// Fills bounce buffers from the tensors of the layers, opened when first needed. One thread.
class ChunkReader {
 public:
  ChunkReader(const std::vector<TableTensors>& tensors, RowParts row)
      : tensors_(tensors), row_(row) {}

  Status Read(const LoadChunk& chunk, std::span<std::byte> buffer) {
    for (const LoadRange& range : chunk.ranges) {
      Layer& layer = layers_[range.layer_index];
      ENGRAM_RETURN_IF_ERROR(Open(range.layer_index, &layer));
      ENGRAM_RETURN_IF_ERROR(layer.weight->Read(
          range.first_row.value() * row_.weight_bytes,
          buffer.subspan(range.weight_offset, uint64_t{range.row_count} * row_.weight_bytes)));
      if (row_.scale_bytes == 0) continue;
      ENGRAM_RETURN_IF_ERROR(layer.scale->Read(
          range.first_row.value() * row_.scale_bytes,
          buffer.subspan(range.scale_offset, uint64_t{range.row_count} * row_.scale_bytes)));
    }
    return {};
  }

 private:
  struct Layer {
    std::optional<TensorReader> weight;
    std::optional<TensorReader> scale;
  };

  Status Open(int32_t layer_index, Layer* layer) {
    if (layer->weight.has_value()) return {};
    const TableTensors& tensors = tensors_[static_cast<size_t>(layer_index)];
    auto weight = TensorReader::Open(tensors.weight);
    if (!weight.has_value()) return weight.error();
    if (tensors.scale.has_value()) {
      auto scale = TensorReader::Open(*tensors.scale);
      if (!scale.has_value()) return scale.error();
      layer->scale.emplace(*std::move(scale));
    }
    layer->weight.emplace(*std::move(weight));
    return {};
  }

  const std::vector<TableTensors>& tensors_;
  const RowParts row_;
  std::map<int32_t, Layer> layers_;
};

// So that the reading thread takes the cost of fresh pages from the one that seals.
Status PopulateChunk(const LoadJob& job, const LoadChunk& chunk) {
  const uint64_t row_stride = job.layout->row_stride();
  for (const LoadPart& part : chunk.parts) {
    const EmptySlot& slot = job.slots[part.slot_position];
    ENGRAM_RETURN_IF_ERROR(PopulatePages(
        slot.slot, {slot.rows + part.row_in_slot * row_stride, part.row_count * row_stride}));
  }
  return {};
}

// Turns buffered rows into stored rows, slot after slot. One thread.
class SlotSealer {
 public:
  SlotSealer(const LoadJob& job, const OnSlotLoaded& on_loaded)
      : job_(job),
        on_loaded_(on_loaded),
        row_(RowPartsOf(job.layout->spec())),
        row_bytes_(job.layout->row_bytes()),
        row_stride_(job.layout->row_stride()) {}

  // ERRORS: kCorrupt when the slot that this part completes has another digest than was recorded.
  Status Seal(const LoadChunk& chunk, const LoadPart& part, const std::byte* buffer) {
    const EmptySlot& slot = job_.slots[part.slot_position];
    const LoadRange& range = chunk.ranges[part.range];
    if (part.row_in_slot == 0) XXH3_64bits_reset(&hash_);
    const std::byte* weights =
        buffer + range.weight_offset + uint64_t{part.row_in_range} * row_.weight_bytes;
    const std::byte* scales =
        buffer + range.scale_offset + uint64_t{part.row_in_range} * row_.scale_bytes;
    std::byte* stored = slot.rows + uint64_t{part.row_in_slot} * row_stride_;
    const int32_t layer_id =
        job_.layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)];
    uint64_t row_id = range.first_row.value() + part.row_in_range;
    const uint32_t block_rows = std::max(1u, kBlockBytes / row_stride_);
    for (uint32_t done = 0; done < part.row_count;) {
      const uint32_t count = std::min(block_rows, part.row_count - done);
      std::byte* const block = stored;
      for (uint32_t i = 0; i < count; ++i, ++row_id) {
        std::memcpy(stored, weights, row_.weight_bytes);
        std::memcpy(stored + row_.weight_bytes, scales, row_.scale_bytes);
        SealRow(job_.version, layer_id, RowId(row_id), stored, row_bytes_);
        weights += row_.weight_bytes;
        scales += row_.scale_bytes;
        stored += row_stride_;
      }
      XXH3_64bits_update(&hash_, block, uint64_t{count} * row_stride_);
      done += count;
    }
    if (part.row_in_slot + part.row_count < job_.layout->slot(slot.slot).row_count) return {};
    return Complete(slot);
  }

 private:
  Status Complete(const EmptySlot& slot) {
    SlotDigest digest = XXH3_64bits_digest(&hash_);
    if (digest == 0) digest = 1;
    if (slot.digest != 0 && slot.digest != digest) {
      const SlotRange& range = job_.layout->slot(slot.slot);
      char digests[64];
      std::snprintf(digests, sizeof(digests), "%016" PRIx64 ", recorded is %016" PRIx64, digest,
                    slot.digest);
      return {
          StatusCode::kCorrupt,
          "slot " + std::to_string(slot.slot.value()) + " (layer " +
              std::to_string(
                  job_.layout->spec().hash.layer_ids[static_cast<size_t>(range.layer_index)]) +
              ", rows from " + std::to_string(range.first_row.value()) + ") of " +
              job_.checkpoint.string() + " has the digest " + digests +
              ": the checkpoint here differs from the one that was loaded first, or is damaged"};
    }
    on_loaded_(slot, digest);
    return {};
  }

  const LoadJob& job_;
  const OnSlotLoaded& on_loaded_;
  const RowParts row_;
  const uint32_t row_bytes_;
  const uint32_t row_stride_;
  XXH3_state_t hash_;
};

// A line about every `interval`: how much, how fast, how long to go.
class ProgressLog {
 public:
  ProgressLog(TableVersion version, uint64_t bytes_total, Duration interval)
      : version_(version), bytes_total_(bytes_total), interval_(interval) {}

  void Tell(uint64_t bytes_done) {
    const MonotonicTime now = SteadyClock().Now();
    if (now < next_) return;
    next_ = now + interval_;
    const double seconds = std::chrono::duration<double>(now - start_).count();
    const double rate = static_cast<double>(bytes_done) / std::max(seconds, 1e-9);
    const double left = static_cast<double>(bytes_total_ - bytes_done) / std::max(rate, 1.0);
    spdlog::info("version {}: loaded {} of {} ({:.0f} %) at {}/s, {:.0f} s left", version_.value(),
                 ByteText(bytes_done), ByteText(bytes_total_),
                 100.0 * static_cast<double>(bytes_done) / static_cast<double>(bytes_total_),
                 ByteText(static_cast<uint64_t>(rate)), left);
  }
  void Done() const {
    const double seconds = std::chrono::duration<double>(SteadyClock().Now() - start_).count();
    spdlog::info("version {}: loaded and checked {} in {:.2f} s ({}/s)", version_.value(),
                 ByteText(bytes_total_), seconds,
                 ByteText(static_cast<uint64_t>(static_cast<double>(bytes_total_) /
                                                std::max(seconds, 1e-9))));
  }

 private:
  const TableVersion version_;
  const uint64_t bytes_total_;
  const Duration interval_;
  const MonotonicTime start_ = SteadyClock().Now();
  MonotonicTime next_ = start_ + interval_;
};

Status WorkThrough(const std::vector<LoadChunk>& chunks, const LoadJob& job, BouncePipe* pipe,
                   LoadControl* control, ProgressLog* log, SlotSealer* sealer) {
  for (const LoadChunk& chunk : chunks) {
    while (control->paused() && !control->cancelled()) std::this_thread::sleep_for(kPausePoll);
    if (control->cancelled()) return {StatusCode::kCancelled, "the load was cancelled"};
    auto buffer = pipe->AwaitFilled();
    if (!buffer.has_value()) return buffer.error();
    for (const LoadPart& part : chunk.parts) {
      ENGRAM_RETURN_IF_ERROR(sealer->Seal(chunk, part, *buffer));
    }
    pipe->Worked();
    control->AddBytesDone(chunk.row_count * job.layout->row_stride());
    log->Tell(control->bytes_done());
  }
  return {};
}

}  // namespace

Result<std::vector<TableTensors>> OpenTables(const std::filesystem::path& model_dir,
                                             const ModelIdentity& identity,
                                             const TableLayout& layout) {
  ENGRAM_ASSIGN_OR_RETURN(const ModelTables tables, ReadModelTables(model_dir, true));
  if (tables.identity != identity) {
    return Error(StatusCode::kWrongModel,
                 model_dir.string() + " has the model identity " +
                     ModelIdentityHex(tables.identity) + ", the version was made of " +
                     ModelIdentityHex(identity) +
                     ": config.json or tokenizer.json differ from those the coordinator read");
  }
  ENGRAM_ASSIGN_OR_RETURN(const TensorIndex index, TensorIndex::Open(model_dir));
  return FindTableTensors(index, layout);
}

Status LoadSlots(const LoadJob& job, const LoadOptions& options, LoadControl* control,
                 const OnSlotLoaded& on_loaded) {
  auto tensors = OpenTables(job.checkpoint, job.identity, *job.layout);
  if (!tensors.has_value()) return tensors.error();
  return LoadSlotsFrom(*tensors, job, options, control, on_loaded);
}

Status LoadSlotsFrom(const std::vector<TableTensors>& tensors, const LoadJob& job,
                     const LoadOptions& options, LoadControl* control,
                     const OnSlotLoaded& on_loaded) {
  std::vector<SlotIndex> order;
  uint64_t bytes_total = 0;
  for (const EmptySlot& slot : job.slots) {
    order.push_back(slot.slot);
    bytes_total += job.layout->slot_bytes(slot.slot);
  }
  if (order.empty()) return {};
  const std::vector<LoadChunk> chunks = PlanLoad(*job.layout, order, options.buffer_bytes);
  BouncePipe pipe(options.buffer_count,
                  std::max<uint64_t>(options.buffer_bytes, job.layout->row_bytes()));
  ProgressLog log(job.version, bytes_total, options.log_interval);

  std::jthread reader([&] {
    ChunkReader chunk_reader(tensors, RowPartsOf(job.layout->spec()));
    for (const LoadChunk& chunk : chunks) {
      const std::span<std::byte> buffer = pipe.AwaitEmpty();
      if (buffer.empty()) return;
      Status status = PopulateChunk(job, chunk);
      if (status.ok()) status = chunk_reader.Read(chunk, buffer);
      const bool failed = !status.ok();
      pipe.Filled(std::move(status));
      if (failed) return;
    }
  });
  SlotSealer sealer(job, on_loaded);
  Status status = WorkThrough(chunks, job, &pipe, control, &log, &sealer);
  pipe.Stop();
  reader.join();
  if (status.ok()) log.Done();
  return status;
}

}  // namespace engram
