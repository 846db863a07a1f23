// Batches of rows through the whole client in a closed loop: hash, dedupe, cache, read, verify,
// scatter.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bench/latency_histogram.h"
#include "bench/read_node.h"
#include "bench/token_source.h"
#include "client/row_source.h"
#include "client/shard_directory.h"
#include "client/token_book.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"

namespace engram::bench {

struct ReaderOptions {
  std::string transport = "tcp";
  std::string way = "auto";
  std::string one_sided = "off";
  uint32_t io_threads = 1;
  uint32_t io_spin_us = 0;  // RemoteRowsOptions::spin
  uint64_t cache_bytes = 0;
  uint32_t batch_tokens_max = 0;
  uint32_t replicas = 1;
  std::string zone;  // of this host, where a cluster is read
  // Own nodes may be on networks that are this machine's alone.
  ChannelSecurity security{.identity = nullptr, .insecure = true};
  // Where a cluster under TLS is read: what its memory nodes are shown. FindCluster fills it.
  std::shared_ptr<TokenBook> session_tokens = nullptr;
};
// A client of `nodes`, which own the slots in turn; each slot has its further replicas on the next
// nodes. The first node is the nearest, where a row has a choice.
//   compression  [vocabulary] token id -> compressed id
// ERRORS: those of the transport and of CreateRemoteRows.
[[nodiscard]] Result<std::unique_ptr<RowSource>> ConnectTo(
    const std::vector<NodeContact>& nodes, const ReaderOptions& options,
    const std::shared_ptr<const TableLayout>& layout, const std::vector<int32_t>& compression);

// The cluster of these coordinators, whatever model it serves; `reader` has its security and gets
// its session tokens. ERRORS: those of ShardDirectory.
[[nodiscard]] Result<std::shared_ptr<ShardDirectory>> FindCluster(
    const std::vector<std::string>& coordinators, ReaderOptions& reader);
// A client of a cluster. `compression` as above; kInvalidArgument if its ids are not the model's.
[[nodiscard]] Result<std::unique_ptr<RowSource>> ConnectToCluster(
    const std::shared_ptr<ShardDirectory>& directory, const ReaderOptions& options,
    const std::vector<int32_t>& compression);

// One measurement.
struct Measured {
  double rows_s = 0;      // delivered: every token's rows, deduped and cached ones too
  LatencyHistogram took;  // of a batch: from its tokens known to its rows ready
  RowSourceStats stats;
  double seconds = 0;
  double node_cpu_seconds = 0;  // of all nodes
};

// Thread-compatible.
class ReadLoop {
 public:
  // Nothing is owned.
  ReadLoop(RowSource* rows, std::vector<NodeContact> nodes, TokenSource* tokens)
      : rows_(rows), nodes_(std::move(nodes)), tokens_(tokens) {}

  // Reads batches of `tokens` for so long. ERRORS: those of RowSource; kCorrupt if a row was wrong.
  [[nodiscard]] Result<Measured> Run(uint32_t tokens, double seconds);
  // Compares every row of one batch with what the nodes made up. ERRORS: kCorrupt.
  [[nodiscard]] Status CheckContents(uint32_t tokens);

 private:
  [[nodiscard]] Status ReadBatch(const TokenRun& run);
  [[nodiscard]] double NodeCpuSeconds() const;

  RowSource* rows_;
  std::vector<NodeContact> nodes_;
  TokenSource* tokens_;
};

}  // namespace engram::bench
