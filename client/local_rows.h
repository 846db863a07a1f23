// Rows from tables in this process: the RowSource to compare remote reads with.
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

// The same tickets, staging buffers, threads and hashing as RemoteRows; a thread hashes, then
// gathers its columns' rows straight into the staging buffer: no dedupe, no CRC, no message, no
// cache. OWNERSHIP: the result keeps what it is given alive.
// ERRORS: kInvalidArgument naming the option, kResourceExhausted.
[[nodiscard]] Result<std::unique_ptr<RowSource>> CreateLocalRows(
    const LocalRowsOptions& options, std::shared_ptr<const LocalTables> tables,
    std::shared_ptr<const NgramHasher> hasher);

}  // namespace engram
