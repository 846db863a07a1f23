// Rows from memory nodes: RowSource over a transport.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "client/hedge_policy.h"
#include "client/row_landing.h"
#include "client/row_source.h"
#include "client/shard_map_source.h"
#include "client/staging_memory.h"
#include "engram/base/clock.h"
#include "engram/transport/row_reader.h"

namespace engram {

struct RemoteRowsOptions {
  TableVersion version;
  ModelIdentity identity{};
  uint32_t batch_tokens_max = 1024;
  uint32_t staging_buffers = 4;  // batches in flight or in use at once
  uint32_t io_threads = 1;
  ColumnStripe stripe;              // of striped batches
  size_t cache_bytes = 0;           // of hot rows, over all threads; 0 = none
  uint32_t read_rows_max = 1024;    // rows in one message: checking overlaps with the wire
  uint32_t session_reads_max = 16;  // messages in flight per node and thread
  // Batches of up to this many rows go out as one message per node, all layers together; larger
  // ones layer by layer.
  uint32_t merged_rows_max = 512;
  Duration read_silence_max = std::chrono::seconds(3);  // then a node's session is opened anew
  // Waited for sessions with every node that is up: those nodes keep what this reader reads when
  // the version is dropped, and its first batch finds them open. A node that does not answer by
  // then is left out, with a line in the log. 0 = not waited for.
  Duration sessions_wait{};
  // This client's zone, as memory nodes name theirs: with several replicas those of the same zone
  // are read first, after those of the same host. Empty = no zone is preferred.
  std::string zone;
  Duration spin{};       // an I/O thread, or a caller of Await, looks so long before it sleeps
  HedgeOptions hedging;  // of tables with several replicas
  StagingMemoryObserver* staging_observer = nullptr;  // outlives the result
  // Rows go into the memory of a GPU (LayerRows::landed), the staging buffers have their places in
  // it. No row cache and no stripes then: both are in this host's memory. Outlives the result; null
  // = rows are staged.
  RowLanding* landing = nullptr;
};

inline constexpr uint32_t kIoThreadsMax = 32;

// Starts `io_threads` threads; each has its own reader and its own sessions, and reads every n-th
// column from whichever nodes hold it: a row never changes threads, so nothing is shared between
// them. They sleep when there is nothing to do.
// OWNERSHIP: the result keeps everything it is given alive.
// ERRORS: kInvalidArgument naming the option, kResourceExhausted, kWrongVersion where a node said
// for all of sessions_wait that it does not serve the version, and those of the transport.
[[nodiscard]] Result<std::unique_ptr<RowSource>> CreateRemoteRows(
    const RemoteRowsOptions& options, std::shared_ptr<Transport> transport,
    std::shared_ptr<const NgramHasher> hasher, std::shared_ptr<const TableLayout> layout,
    std::shared_ptr<ShardMapSource> maps);

}  // namespace engram
