// Where a model worker gets its Engram rows from: prefetch a batch's rows of every layer at once,
// await them layer by layer.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "client/fill_stage.h"
#include "engram/base/status.h"
#include "engram/base/strong_id.h"
#include "engram/base/time_buckets.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"
#include "engram/transport/read_way.h"

namespace engram {

// A prefetch in flight. 0 = none. Never reused.
using Ticket = StrongId<struct TicketTag, uint64_t>;

// What takes the place of a row where whoever asks has the table: a uint32 row id.
inline constexpr uint32_t kRowIdBytes = 4;

// Rows in the memory of a GPU.
struct LandedTable {
  const std::byte* rows = nullptr;  // [row_count][row_bytes]; null = none
  uint64_t row_count = 0;
};

// Rows of one layer for every token of the batch, in the order of the runs' tokens.
struct LayerRows {
  // [tokens][columns][row_bytes], no CRC; or, with only_ids, [tokens][columns] row ids.
  std::span<const std::byte> rows;
  // [tokens] 1 = dead position: its rows were not read and its bytes are unspecified; empty = none.
  std::span<const uint8_t> dead;
  uint32_t token_count = 0;
  // Of a striped batch the same bytes as `rows`, for the caller to put the other columns' into;
  // else empty.
  std::span<std::byte> others{};
  bool only_ids = false;  // for a backend that has the tables (local_rows.h, CreateRowIds)
  // With only_ids: not the backend's tables, but these rows, which are there by now
  // (row_landing.h). The GPU must have read them when the ticket is released.
  LandedTable landed{};
};

// Every count-th column of every layer: those with column % count == index. So nobody gets the
// longer n-grams alone, which repeat less and are more rows to read.
struct ColumnStripe {
  uint32_t index = 0;
  uint32_t count = 1;

  // How many of `column_count` columns it has.
  [[nodiscard]] constexpr uint32_t columns(uint32_t column_count) const {
    return index >= column_count ? 0 : (column_count - index - 1) / count + 1;
  }
};

struct BatchOptions {
  // Rows that are not there this long after Prefetch are an error of their layer.
  std::chrono::milliseconds deadline{2000};
  // Reads only the columns of the stripe that the source was opened with. The others' bytes are
  // unspecified.
  bool striped = false;
};

// Monotonic counters and histograms of one row source, since start or ResetStats.
struct RowSourceStats {
  struct Layer {
    uint64_t batches = 0;
    uint64_t batches_in_time = 0;  // rows were ready before Await asked
    uint64_t stall_ns = 0;         // time spent inside Await
    // Per batch whose rows came: from row ids known to rows ready.
    TimeBuckets prefetch_times;
    // Per batch: from Prefetch's return to the first Await of this layer.
    TimeBuckets window_times;
    // The last kLatencySamplesMax of both, in microseconds; not in Counts().
    std::vector<double> prefetch_us;
    std::vector<double> window_us;
  };
  // What there is now; ResetStats does not change it.
  struct Held {
    struct Version {
      TableVersion version;
      Epoch epoch;  // of the shard map: the oldest that a thread reads by; 0 = none has one yet
    };
    std::vector<Version> versions;  // that are open; empty where rows come from memory
    std::array<uint64_t, kReadWayCount> sessions{};  // [ReadWay] open ones, of every I/O thread
    uint64_t staging_bytes = 0;
    uint64_t cache_bytes = 0;  // taken at the start
    uint64_t cache_rows = 0;
    uint64_t cache_rows_max = 0;
  };
  std::vector<Layer> layers;  // [layers]
  uint64_t batches = 0;
  uint64_t tokens = 0;
  uint64_t rows_asked = 0;   // tokens * columns * layers, less dead positions
  uint64_t rows_unique = 0;  // after dedupe of n-grams within the batch
  uint64_t rows_from_cache = 0;
  uint64_t rows_read = 0;      // from memory nodes (or from memory, local or a GPU's)
  uint64_t rows_landed = 0;    // of these, put into a GPU's memory by a network card
  uint64_t rows_verified = 0;  // CRC checked and right
  uint64_t rows_wrong = 0;     // CRC wrong: rejected, never delivered
  uint64_t rows_failed = 0;    // could not be had within the deadline
  uint64_t bytes_read = 0;     // of rows_read, with their CRC
  uint64_t reads = 0;          // asked of memory nodes and ended, each of many rows
  uint64_t reads_retried = 0;
  uint64_t reads_hedged = 0;     // late: asked of another replica too
  uint64_t hedges_won = 0;       // of these, the other replica was first
  uint64_t row_path_cpu_ns = 0;  // CPU time of the I/O threads and of hashing
  Held held;
};
inline constexpr size_t kLatencySamplesMax = 1u << 16;

// The end of a prefetch that the consuming layer sees.
class AwaitableRows {
 public:
  virtual ~AwaitableRows() = default;
  // Waits until the rows of one layer are there. They stay valid until the ticket is released.
  // ERRORS: one code for the layer, with a message that names the first row that could not be had,
  // its node and why (kUnavailable, kDeadlineExceeded, kCorrupt, ...). Never other rows, never
  // zeros.
  [[nodiscard]] virtual Result<LayerRows> Await(Ticket ticket, int32_t layer_index) = 0;
};

// Thread-safe, but each ticket is awaited and released by one thread.
class RowSource : public AwaitableRows {
 public:
  [[nodiscard]] virtual const TableLayout& layout() const = 0;
  [[nodiscard]] virtual const NgramHasher& hasher() const = 0;
  // Tokens in one batch at most: the size of a staging buffer.
  [[nodiscard]] virtual uint32_t batch_tokens_max() const = 0;

  // Starts reading the rows of every layer for `runs`; does not wait for them. It may hash, send
  // and copy mapped rows of a small batch itself: some 10 us. The runs' spans are copied. Every
  // ticket must be released. ERRORS: kInvalidArgument (a bad token, more than batch_tokens_max
  // tokens or none), kResourceExhausted (every staging buffer is in use: release a ticket first).
  [[nodiscard]] virtual Result<Ticket> Prefetch(std::span<const TokenRun> runs,
                                                const BatchOptions& options) = 0;

  // The caller no longer uses the ticket's rows. Reads still in flight are abandoned.
  virtual void Release(Ticket ticket) = 0;

  [[nodiscard]] virtual RowSourceStats Stats() const = 0;
  // Stats without the latency samples, of which there are megabytes: holds up nobody who awaits.
  [[nodiscard]] virtual RowSourceStats Counts() const = 0;
  virtual void ResetStats() = 0;
  // How many of its I/O threads are in which stage right now. Cheap enough to be asked thousands of
  // times a second.
  [[nodiscard]] virtual FillStages Stages() const = 0;
};

}  // namespace engram
