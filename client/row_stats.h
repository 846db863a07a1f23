// Counters and latency samples of one row source.
#pragma once

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
  std::atomic<uint64_t> rows_verified{0};
  std::atomic<uint64_t> rows_wrong{0};
  std::atomic<uint64_t> rows_failed{0};
  std::atomic<uint64_t> reads_retried{0};
  std::atomic<uint64_t> reads_hedged{0};
  std::atomic<uint64_t> hedges_won{0};

  // Cheaper than fetch_add: there is one writer.
  static void Add(std::atomic<uint64_t>& counter, uint64_t n) {
    counter.store(counter.load(std::memory_order_relaxed) + n, std::memory_order_relaxed);
  }
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
    double prefetch_us = 0;
    double window_us = 0;
  };
  void AddAwait(size_t layer_index, const AwaitSample& sample);
  void AddStall(size_t layer_index, uint64_t stall_ns, uint64_t cpu_ns);

  // Everything but what the fill threads count.
  [[nodiscard]] RowSourceStats Snapshot() const;
  void Reset();

 private:
  // The last kLatencySamplesMax samples.
  struct Samples {
    std::vector<double> values;
    size_t next = 0;
    void Add(double value);
  };
  struct Layer {
    uint64_t batches = 0;
    uint64_t batches_in_time = 0;
    uint64_t stall_ns = 0;
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
