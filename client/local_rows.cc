#include "client/local_rows.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "client/row_filler.h"
#include "client/ticketed_rows.h"

namespace engram {
namespace {

// One I/O thread's part: everything of a batch is done inside Begin.
class LocalFiller final : public RowFiller {
 public:
  LocalFiller(const LocalTables* tables, const NgramHasher* hasher, StagingRing* ring,
              const ColumnStripe& stripe, uint32_t part, uint32_t part_count)
      : tables_(tables),
        ring_(ring),
        stripe_(stripe),
        part_(part),
        part_count_(part_count),
        hasher_(hasher),
        buckets_(std::make_unique_for_overwrite<uint32_t[]>(
            static_cast<size_t>(tables->layout().column_count()) * ring->options().tokens_max)) {}

  void Begin(StagingBuffer& buffer) override {
    const TableLayout& layout = tables_->layout();
    for (int32_t layer = 0; layer < layout.layer_count(); ++layer) {
      Enter(FillStage::kHash);
      size_t first_token = 0;
      for (const TokenRun& run : buffer.runs) {
        hasher_->Hash(layer, run, buckets_.get() + first_token, buffer.token_count);
        first_token += run.tokens.size();
      }
      StagingRing::NoteIdsKnown(buffer, layer, SteadyClock().Now());
      Enter(FillStage::kScatter);
      Gather(buffer, layer);
      StagingRing::FinishPart(buffer, layer, SteadyClock().Now());
    }
    Enter(FillStage::kOther);
    ring_->DropPart(buffer);
  }
  // Begin has dropped the part.
  void Abandon(StagingBuffer& /*buffer*/) override {}
  bool Progress() override { return false; }

  void Wait(std::unique_lock<std::mutex>& driving) override {
    Enter(FillStage::kAsleep);
    driving.unlock();
    {
      std::unique_lock lock(mutex_);
      wakened_.wait(lock, [this] { return wake_; });
      wake_ = false;
    }
    driving.lock();
    Enter(FillStage::kOther);
  }
  void Borrow() override {}
  [[nodiscard]] bool GiveBack() override {
    Enter(FillStage::kAsleep);
    return true;
  }
  void Wake() override {
    {
      const std::lock_guard lock(mutex_);
      wake_ = true;
    }
    wakened_.notify_one();
  }

 private:
  static constexpr uint32_t kAhead = 8;  // rows whose cache misses overlap
  static constexpr uint32_t kCacheLineBytes = 64;

  void Gather(StagingBuffer& buffer, int32_t layer_index) {
    const TableLayout& layout = tables_->layout();
    const std::byte* table = tables_->rows(layer_index);
    const size_t row_bytes = layout.row_bytes();
    const auto columns = static_cast<uint32_t>(layout.column_count());
    std::byte* out = buffer.rows(layer_index);
    uint64_t rows = 0;
    const ColumnStripe stripe = buffer.striped ? stripe_ : ColumnStripe();
    const uint32_t stride = stripe.count * part_count_;
    for (uint32_t column = stripe.index + stripe.count * part_; column < columns;
         column += stride) {
      const auto c = static_cast<int32_t>(column);
      const uint32_t* buckets = buckets_.get() + size_t{column} * buffer.token_count;
      const std::byte* first = table + layout.column(layer_index, c).row_offset * row_bytes;
      for (uint32_t token = 0; token < buffer.token_count; ++token) {
        if (token + kAhead < buffer.token_count) {
          const std::byte* ahead = first + size_t{buckets[token + kAhead]} * row_bytes;
          for (size_t at = 0; at < row_bytes; at += kCacheLineBytes) {
            __builtin_prefetch(ahead + at);
          }
        }
        if (!buffer.dead.empty() && buffer.dead[token] != 0) continue;
        std::memcpy(out + (size_t{token} * columns + column) * row_bytes,
                    first + size_t{buckets[token]} * row_bytes, row_bytes);
        ++rows;
      }
    }
    FillCounters::Add(counters_.rows_unique, rows);
    FillCounters::Add(counters_.rows_read, rows);
    FillCounters::Add(counters_.bytes_read, rows * row_bytes);
  }

  const LocalTables* tables_;
  StagingRing* ring_;
  const ColumnStripe stripe_;
  const uint32_t part_;
  const uint32_t part_count_;
  const NgramHasher* hasher_;
  std::unique_ptr<uint32_t[]> buckets_;  // [columns][tokens]
  std::mutex mutex_;
  std::condition_variable wakened_;
  bool wake_ = false;  // guarded by mutex_
};

}  // namespace

Result<std::unique_ptr<RowSource>> CreateLocalRows(const LocalRowsOptions& options,
                                                   std::shared_ptr<const LocalTables> tables,
                                                   std::shared_ptr<const NgramHasher> hasher) {
  const TableLayout& layout = tables->layout();
  constexpr uint32_t kThreadsMax = 32;
  if (options.io_threads < 1 || options.io_threads > kThreadsMax) {
    return Error(StatusCode::kInvalidArgument,
                 "io_threads is " + std::to_string(options.io_threads) + ": it must be 1 to 32");
  }
  const uint64_t tokens_max = (uint64_t{1} << 30) / static_cast<uint64_t>(layout.layer_count()) /
                              static_cast<uint64_t>(layout.column_count());
  if (options.batch_tokens_max < 1 || options.batch_tokens_max > tokens_max) {
    return Error(StatusCode::kInvalidArgument,
                 "batch_tokens_max is " + std::to_string(options.batch_tokens_max) +
                     ": it must be 1 to " + std::to_string(tokens_max));
  }
  const uint32_t threads =
      std::min(options.io_threads, static_cast<uint32_t>(layout.column_count()));
  StagingRing::Options ring;
  ring.layer_count = layout.layer_count();
  ring.column_count = layout.column_count();
  ring.row_bytes = layout.row_bytes();
  ring.tokens_max = options.batch_tokens_max;
  ring.history_max = static_cast<uint32_t>(layout.spec().hash.max_ngram_size - 1);
  ring.buffer_count = options.staging_buffers;
  ring.part_count = threads;
  ring.observer = options.staging_observer;
  TicketedRows::Parts parts;
  ENGRAM_ASSIGN_OR_RETURN(parts.ring, StagingRing::Create(ring));
  for (uint32_t part = 0; part < threads; ++part) {
    parts.fillers.push_back(std::make_unique<LocalFiller>(
        tables.get(), hasher.get(), parts.ring.get(), options.stripe, part, threads));
  }
  parts.layout = tables->shared_layout();
  parts.hasher = std::move(hasher);
  parts.spin = options.spin;
  parts.stripe = options.stripe;
  parts.keep_alive = {std::move(tables)};
  return std::make_unique<TicketedRows>(std::move(parts));
}

}  // namespace engram
