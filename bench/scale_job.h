// What engram-bench scale asks of its client processes, and what they answer: files between the two
// programs, which mpirun stands between.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "bench/latency_histogram.h"
#include "bench/read_node.h"
#include "engram/base/status.h"

namespace engram::bench {

// For all ranks; each reads tokens of its own.
struct ScaleJob {
  std::string transport = "tcp";
  std::string way = "auto";
  uint32_t io_threads = 1;
  uint64_t bytes = 0;         // of the tables, as V41Spec takes it
  uint32_t batch_tokens = 0;  // of every batch
  double seconds = 0;
  uint64_t seed = 1;
  std::vector<NodeContact> nodes;
};
[[nodiscard]] Status WriteJob(const ScaleJob& job, const std::filesystem::path& file);
// ERRORS: kIo, kMalformed.
[[nodiscard]] Result<ScaleJob> ReadJob(const std::filesystem::path& file);

// Of all ranks together, which read at the same time.
struct ScaleOutcome {
  double rows_s = 0;  // the sum of the ranks' rates
  uint64_t rows = 0;
  uint64_t reads = 0;  // messages asked
  double client_cpu_seconds = 0;
  double node_cpu_seconds = 0;
  LatencyHistogram took;  // of a batch

  void Merge(const ScaleOutcome& other);
  [[nodiscard]] std::string ToText() const;
  // ERRORS: kMalformed.
  [[nodiscard]] static Result<ScaleOutcome> FromText(const std::string& text);
};
// ERRORS: kIo, kMalformed.
[[nodiscard]] Result<ScaleOutcome> ReadOutcome(const std::filesystem::path& file);

}  // namespace engram::bench
