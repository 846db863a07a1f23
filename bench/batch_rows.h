// Which rows the tokens of a batch have, and how long batches of them take: for what is compared
// with the whole client and does not hash itself.
#pragma once

#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include "bench/latency_histogram.h"
#include "bench/token_source.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/hash/ngram_hasher.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

// Thread-compatible.
class BatchRows {
 public:
  // Nothing is owned.
  BatchRows(const TableLayout* layout, const NgramHasher* hasher, TokenSource* tokens)
      : layout_(layout), hasher_(hasher), tokens_(tokens) {}

  // The addresses of every row of the next `tokens` tokens, all layers, none left out; valid until
  // the next call.
  [[nodiscard]] const std::vector<uint64_t>& Next(uint32_t tokens);

 private:
  const TableLayout* layout_;
  const NgramHasher* hasher_;
  TokenSource* tokens_;
  std::vector<uint32_t> buckets_;
  std::vector<uint64_t> addresses_;
};

struct BatchTimes {
  double rows_s = 0;
  LatencyHistogram took;  // of a batch
};

// Batches one after the other until reading them took so long.
//   next   () -> rows of the batch it made ready; not timed
//   read   () -> Status
// ERRORS: those of read.
template <typename Next, typename Read>
[[nodiscard]] Result<BatchTimes> TimeBatches(double seconds, const Next& next, const Read& read) {
  BatchTimes times;
  Duration busy{};
  uint64_t rows = 0;
  while (std::chrono::duration<double>(busy).count() < seconds) {
    rows += next();
    const MonotonicTime begin = std::chrono::steady_clock::now();
    if (Status status = read(); !status.ok()) return Error(std::move(status));
    const Duration took = std::chrono::steady_clock::now() - begin;
    times.took.Add(took);
    busy += took;
  }
  times.rows_s = static_cast<double>(rows) / std::chrono::duration<double>(busy).count();
  return times;
}

}  // namespace engram::bench
