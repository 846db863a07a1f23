// Reading rows from memory nodes, as lookup and verify do.
#pragma once

#include <string>

#include "client/connect.h"
#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "tools/command.h"

namespace engram {

struct RowReadingOptions {
  CoordinatorOptions coordinator;
  uint64_t table_version = 0;  // 0 = the current one
  std::string way = "auto";
  std::string tls = "auto";
};

void AddRowReadingOptions(CLI::App& command, RowReadingOptions& options);

// `tables` null = read whatever the coordinator serves; else refuse another model.
// ERRORS: kWrongModel and those of ConnectLookup.
[[nodiscard]] Result<LookupConnection> OpenRows(const RowReadingOptions& options,
                                                const ModelTables* tables);

}  // namespace engram
