// Blocking reads of rows by address, for tools.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "client/shard_map_source.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/table/table_layout.h"
#include "engram/transport/row_reader.h"

namespace engram {

struct RowLookupOptions {
  TableVersion version;
  ModelIdentity identity{};
  std::chrono::milliseconds deadline{5000};  // of one ReadRows
  std::string zone;                          // as RemoteRowsOptions::zone
};

inline constexpr size_t kLookupRowsMax = 65536;  // in one ReadRows

// Reads on the calling thread; starts none. Thread-compatible.
class RowLookup {
 public:
  // ERRORS: the transport's. OWNERSHIP: keeps what it is given alive.
  [[nodiscard]] static Result<std::unique_ptr<RowLookup>> Create(
      const RowLookupOptions& options, std::shared_ptr<Transport> transport,
      std::shared_ptr<const TableLayout> layout, std::shared_ptr<ShardMapSource> maps);
  virtual ~RowLookup() = default;

  // Reads and verifies rows; returns when each was had or failed.
  //   rows      [n] n <= kLookupRowsMax; any order, repeats allowed
  //   bytes     [n][row_bytes] written where the row's status is kOk, else left alone
  //   statuses  [n] written: kOk, kInvalidArgument (names no row), kCorrupt (its CRC is wrong on
  //             every replica), kUnavailable, kDeadlineExceeded
  // Gives the first failure with its message; rows that are kOk are right even then.
  [[nodiscard]] virtual Status ReadRows(std::span<const RowAddress> rows,
                                        std::span<std::byte> bytes,
                                        std::span<StatusCode> statuses) = 0;
};

}  // namespace engram
