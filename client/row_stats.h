// Counters, histograms and latency samples of one row source.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <mutex>
#include <vector>

#include "client/row_source.h"

namespace engram {

// What one fill thread counts: it alone writes, anyone may read.
struct FillCounters {
  std::atomic<uint64_t> rows_unique{0};
  std::atomic<uint64_t> rows_from_cache{0};
  std::atomic<uint64_t> rows_read{0};
  std::atomic<uint64_t> rows_landed{0};
  std::atomic<uint64_t> rows_verified{0};
  std::atomic<uint64_t> rows_wrong{0};
  std::atomic<uint64_t> rows_failed{0};
  std::atomic<uint64_t> bytes_read{0};
  std::atomic<uint64_t> reads{0};
  std::atomic<uint64_t> reads_retried{0};
  std::atomic<uint64_t> reads_hedged{0};
  std::atomic<uint64_t> hedges_won{0};

  // Cheaper than fetch_add: there is one writer.
  static void Add(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
};

// What one fill thread has now: it alone writes, anyone may read.
struct FillGauges {
  std::atomic<uint64_t> version{0};  // 0 = its rows come from memory
  std::atomic<uint64_t> epoch{0};
  std::array<std::atomic<uint64_t>, kReadWayCount> sessions{};
  std::atomic<uint64_t> cache_bytes{0};
  std::atomic<uint64_t> cache_rows{0};
  std::atomic<uint64_t> cache_rows_max{0};
  std::atomic<FillStage> stage{FillStage::kOther};
};

// Each count of FillCounters and where RowSourceStats tells it.
struct FillCount {
  std::atomic<uint64_t> FillCounters::*counted;
  uint64_t RowSourceStats::*told;
};
inline constexpr FillCount kFillCounts[] = {
    {&FillCounters::rows_unique, &RowSourceStats::rows_unique},
    {&FillCounters::rows_from_cache, &RowSourceStats::rows_from_cache},
    {&FillCounters::rows_read, &RowSourceStats::rows_read},
    {&FillCounters::rows_landed, &RowSourceStats::rows_landed},
    {&FillCounters::rows_verified, &RowSourceStats::rows_verified},
    {&FillCounters::rows_wrong, &RowSourceStats::rows_wrong},
    {&FillCounters::rows_failed, &RowSourceStats::rows_failed},
    {&FillCounters::bytes_read, &RowSourceStats::bytes_read},
    {&FillCounters::reads, &RowSourceStats::reads},
    {&FillCounters::reads_retried, &RowSourceStats::reads_retried},
    {&FillCounters::reads_hedged, &RowSourceStats::reads_hedged},
    {&FillCounters::hedges_won, &RowSourceStats::hedges_won},
};

// Thread-safe. Memory is allocated once.
class RowStats {
 public:
  explicit RowStats(size_t layer_count);

  void AddBatch(uint32_t token_count, uint64_t rows_asked, uint64_t cpu_ns);
  // The first Await of a layer of a batch.
  struct AwaitSample {
    bool in_time = false;
    bool ok = false;  // a failed layer has no latency
    uint64_t prefetch_ns = 0;
    uint64_t window_ns = 0;
  };
  void AddAwait(size_t layer_index, const AwaitSample& sample);
  void AddStall(size_t layer_index, uint64_t stall_ns, uint64_t cpu_ns);

  // Everything but what the fill threads count and have.
  [[nodiscard]] RowSourceStats Snapshot(bool with_samples) const;
  void Reset();

 private:
  // The last kLatencySamplesMax samples.
  struct Samples {
    std::vector<double> values;
    size_t next = 0;
    void Add(uint64_t ns);
  };
  struct Layer {
    uint64_t batches = 0;
    uint64_t batches_in_time = 0;
    uint64_t stall_ns = 0;
    TimeBuckets prefetch_times;
    TimeBuckets window_times;
    Samples prefetch_us;
    Samples window_us;
  };

  mutable std::mutex mutex_;
  std::vector<Layer> layers_;
  uint64_t batches_ = 0;
  uint64_t tokens_ = 0;
  uint64_t rows_asked_ = 0;
  uint64_t cpu_ns_ = 0;
};

// Adds one source's figures to another's, as if one source had done both.
void AddStats(const RowSourceStats& from, RowSourceStats* to);

// CPU time of the calling thread.
[[nodiscard]] uint64_t ThreadCpuNanoseconds();

}  // namespace engram
