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

// What is staged for a row. Thread-safe.
class ColumnWriter {
 public:
  virtual ~ColumnWriter() = default;
  // Bytes staged for one row.
  [[nodiscard]] virtual uint32_t row_bytes() const = 0;
  // Writes one column of a layer for every token of the batch that is not dead.
  //   buckets  [tokens]
  virtual void Write(const StagingBuffer& buffer, int32_t layer_index, uint32_t column,
                     const uint32_t* buckets) const = 0;
};

bool IsDead(const StagingBuffer& buffer, uint32_t token) {
  return !buffer.dead.empty() && buffer.dead[token] != 0;
}

class RowWriter final : public ColumnWriter {
 public:
  explicit RowWriter(std::shared_ptr<const LocalTables> tables) : tables_(std::move(tables)) {}

  [[nodiscard]] uint32_t row_bytes() const override { return tables_->layout().row_bytes(); }

  void Write(const StagingBuffer& buffer, int32_t layer_index, uint32_t column,
             const uint32_t* buckets) const override {
    const TableLayout& layout = tables_->layout();
    const size_t row_bytes = layout.row_bytes();
    const auto columns = static_cast<uint32_t>(layout.column_count());
    const std::byte* first =
        tables_->rows(layer_index) +
        layout.column(layer_index, static_cast<int32_t>(column)).row_offset * row_bytes;
    std::byte* out = buffer.rows(layer_index);
    for (uint32_t token = 0; token < buffer.token_count; ++token) {
      if (token + kAhead < buffer.token_count) {
        const std::byte* ahead = first + size_t{buckets[token + kAhead]} * row_bytes;
        for (size_t at = 0; at < row_bytes; at += kCacheLineBytes) __builtin_prefetch(ahead + at);
      }
      if (IsDead(buffer, token)) continue;
      std::memcpy(out + (size_t{token} * columns + column) * row_bytes,
                  first + size_t{buckets[token]} * row_bytes, row_bytes);
    }
  }

 private:
  static constexpr uint32_t kAhead = 8;  // rows whose cache misses overlap
  static constexpr uint32_t kCacheLineBytes = 64;

  const std::shared_ptr<const LocalTables> tables_;
};

class RowIdWriter final : public ColumnWriter {
 public:
  explicit RowIdWriter(std::shared_ptr<const TableLayout> layout) : layout_(std::move(layout)) {}

  [[nodiscard]] uint32_t row_bytes() const override { return kRowIdBytes; }

  void Write(const StagingBuffer& buffer, int32_t layer_index, uint32_t column,
             const uint32_t* buckets) const override {
    const auto columns = static_cast<uint32_t>(layout_->column_count());
    const uint64_t first = layout_->column(layer_index, static_cast<int32_t>(column)).row_offset;
    std::byte* out = buffer.rows(layer_index);
    for (uint32_t token = 0; token < buffer.token_count; ++token) {
      if (IsDead(buffer, token)) continue;
      const auto id = static_cast<uint32_t>(first + buckets[token]);
      std::memcpy(out + (size_t{token} * columns + column) * kRowIdBytes, &id, kRowIdBytes);
    }
  }

 private:
  const std::shared_ptr<const TableLayout> layout_;
};

// One I/O thread's part: everything of a batch is done inside Begin.
class LocalFiller final : public RowFiller {
 public:
  LocalFiller(const ColumnWriter* writer, const TableLayout* layout, const NgramHasher* hasher,
              StagingRing* ring, const ColumnStripe& stripe, uint32_t part, uint32_t part_count)
      : writer_(writer),
        layout_(layout),
        ring_(ring),
        stripe_(stripe),
        part_(part),
        part_count_(part_count),
        hasher_(hasher),
        buckets_(std::make_unique_for_overwrite<uint32_t[]>(
            static_cast<size_t>(layout->column_count()) * ring->options().tokens_max)) {}

  void Begin(StagingBuffer& buffer) override {
    for (int32_t layer = 0; layer < layout_->layer_count(); ++layer) {
      Enter(FillStage::kHash);
      size_t first_token = 0;
      for (const TokenRun& run : buffer.runs) {
        hasher_->Hash(layer, run, buckets_.get() + first_token, buffer.token_count);
        first_token += run.tokens.size();
      }
      StagingRing::NoteIdsKnown(buffer, layer, SteadyClock().Now());
      Enter(FillStage::kScatter);
      Write(buffer, layer);
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
  void Write(StagingBuffer& buffer, int32_t layer_index) {
    const auto columns = static_cast<uint32_t>(layout_->column_count());
    const auto dead = std::count(buffer.dead.begin(), buffer.dead.end(), uint8_t{1});
    const uint64_t live = buffer.token_count - static_cast<uint64_t>(dead);
    uint64_t rows = 0;
    const ColumnStripe stripe = buffer.striped ? stripe_ : ColumnStripe();
    const uint32_t stride = stripe.count * part_count_;
    for (uint32_t column = stripe.index + stripe.count * part_; column < columns;
         column += stride) {
      writer_->Write(buffer, layer_index, column,
                     buckets_.get() + size_t{column} * buffer.token_count);
      rows += live;
    }
    FillCounters::Add(counters_.rows_unique, rows);
    FillCounters::Add(counters_.rows_read, rows);
    FillCounters::Add(counters_.bytes_read, rows * layout_->row_bytes());
  }

  const ColumnWriter* writer_;
  const TableLayout* layout_;
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

Result<std::unique_ptr<RowSource>> Create(const LocalRowsOptions& options, bool only_ids,
                                          std::shared_ptr<const ColumnWriter> writer,
                                          std::shared_ptr<const TableLayout> layout,
                                          std::shared_ptr<const NgramHasher> hasher) {
  constexpr uint32_t kThreadsMax = 32;
  if (options.io_threads < 1 || options.io_threads > kThreadsMax) {
    return Error(StatusCode::kInvalidArgument,
                 "io_threads is " + std::to_string(options.io_threads) + ": it must be 1 to 32");
  }
  const uint64_t tokens_max = (uint64_t{1} << 30) / static_cast<uint64_t>(layout->layer_count()) /
                              static_cast<uint64_t>(layout->column_count());
  if (options.batch_tokens_max < 1 || options.batch_tokens_max > tokens_max) {
    return Error(StatusCode::kInvalidArgument,
                 "batch_tokens_max is " + std::to_string(options.batch_tokens_max) +
                     ": it must be 1 to " + std::to_string(tokens_max));
  }
  const uint32_t threads =
      std::min(options.io_threads, static_cast<uint32_t>(layout->column_count()));
  StagingRing::Options ring;
  ring.layer_count = layout->layer_count();
  ring.column_count = layout->column_count();
  ring.row_bytes = writer->row_bytes();
  ring.tokens_max = options.batch_tokens_max;
  ring.history_max = static_cast<uint32_t>(layout->spec().hash.max_ngram_size - 1);
  ring.buffer_count = options.staging_buffers;
  ring.part_count = threads;
  ring.observer = options.staging_observer;
  TicketedRows::Parts parts;
  parts.only_ids = only_ids;
  ENGRAM_ASSIGN_OR_RETURN(parts.ring, StagingRing::Create(ring));
  for (uint32_t part = 0; part < threads; ++part) {
    parts.fillers.push_back(std::make_unique<LocalFiller>(
        writer.get(), layout.get(), hasher.get(), parts.ring.get(), options.stripe, part, threads));
  }
  parts.layout = std::move(layout);
  parts.hasher = std::move(hasher);
  parts.spin = options.spin;
  parts.stripe = options.stripe;
  parts.keep_alive = {std::move(writer)};
  return std::make_unique<TicketedRows>(std::move(parts));
}

}  // namespace

Result<std::unique_ptr<RowSource>> CreateLocalRows(const LocalRowsOptions& options,
                                                   std::shared_ptr<const LocalTables> tables,
                                                   std::shared_ptr<const NgramHasher> hasher) {
  auto layout = tables->shared_layout();
  return Create(options, /*only_ids=*/false, std::make_shared<RowWriter>(std::move(tables)),
                std::move(layout), std::move(hasher));
}

Result<std::unique_ptr<RowSource>> CreateRowIds(const LocalRowsOptions& options,
                                                std::shared_ptr<const TableLayout> layout,
                                                std::shared_ptr<const NgramHasher> hasher) {
  for (int32_t layer = 0; layer < layout->layer_count(); ++layer) {
    if (layout->row_count(layer) > uint64_t{1} << (8 * kRowIdBytes)) {
      return Error(StatusCode::kInvalidArgument, "a table of " +
                                                     std::to_string(layout->row_count(layer)) +
                                                     " rows: its row ids do not fit in 32 bits");
    }
  }
  auto writer = std::make_shared<RowIdWriter>(layout);
  return Create(options, /*only_ids=*/true, std::move(writer), std::move(layout),
                std::move(hasher));
}

}  // namespace engram
