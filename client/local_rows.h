// Rows that no memory node is asked for: from tables in this process, or of tables that a GPU has.
#pragma once

#include <cstdint>
#include <memory>

#include "client/local_tables.h"
#include "client/row_source.h"
#include "client/staging_memory.h"
#include "engram/base/clock.h"

namespace engram {

struct LocalRowsOptions {
  uint32_t batch_tokens_max = 1024;
  uint32_t staging_buffers = 4;
  uint32_t io_threads = 1;
  ColumnStripe stripe;  // of striped batches
  Duration spin{};      // an I/O thread, or a caller of Await, looks so long before it sleeps
  StagingMemoryObserver* staging_observer = nullptr;  // outlives the result
};

// Rows from tables in this process: what to compare remote reads with.
// The same tickets, staging buffers, threads and hashing as RemoteRows; a thread hashes, then
// gathers its columns' rows straight into the staging buffer: no dedupe, no CRC, no message, no
// cache. OWNERSHIP: the result keeps what it is given alive.
// ERRORS: kInvalidArgument naming the option, kResourceExhausted.
[[nodiscard]] Result<std::unique_ptr<RowSource>> CreateLocalRows(
    const LocalRowsOptions& options, std::shared_ptr<const LocalTables> tables,
    std::shared_ptr<const NgramHasher> hasher);

// Row ids in place of rows (LayerRows::only_ids), for a backend that has the tables itself: hashed
// as above, read by nobody. Statistics count rows as read, though the backend does that later.
// ERRORS: as above, and kInvalidArgument for a table of more rows than kRowIdBytes can number.
[[nodiscard]] Result<std::unique_ptr<RowSource>> CreateRowIds(
    const LocalRowsOptions& options, std::shared_ptr<const TableLayout> layout,
    std::shared_ptr<const NgramHasher> hasher);

}  // namespace engram
