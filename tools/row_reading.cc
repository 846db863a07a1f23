#include "tools/row_reading.h"

#include "engram/rpc/host_port.h"
#include "engram/transport/read_way.h"

namespace engram {

void AddRowReadingOptions(CLI::App& command, RowReadingOptions& options) {
  AddCoordinatorOptions(command, options.coordinator);
  command
      .add_option("--table-version", options.table_version,
                  "The table version to read (0 = the current one)")
      ->capture_default_str();
  command.add_option("--way", options.way, "How rows are read: auto, gather, mapped or one-sided")
      ->check(CLI::IsMember({"auto", "gather", "mapped", "one-sided"}).description(""))
      ->capture_default_str();
  command
      .add_option("--tls", options.tls, "What rows travel over: auto, tcp, shm, or a UCX_TLS list")
      ->capture_default_str();
}

Result<LookupConnection> OpenRows(const RowReadingOptions& options, const ModelTables* tables) {
  ConnectOptions connect;
  connect.coordinators = SplitAddresses(options.coordinator.address);
  ENGRAM_ASSIGN_OR_RETURN(connect.security, OpenSecurity(options.coordinator.security));
  connect.tables = tables;
  connect.version = TableVersion(options.table_version);
  ENGRAM_ASSIGN_OR_RETURN(connect.way, ParseReadWay(options.way));
  connect.tls = options.tls;
  connect.ready_timeout = options.coordinator.timeout();
  return ConnectLookup(connect);
}

}  // namespace engram
