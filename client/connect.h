// From a coordinator's address to rows, in one call.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "client/row_landing.h"
#include "client/row_lookup.h"
#include "client/row_source.h"
#include "client/shard_directory.h"
#include "client/staging_memory.h"
#include "engram/base/status.h"
#include "engram/checkpoint/model_files.h"
#include "engram/security/tls_identity.h"
#include "engram/transport/read_way.h"

namespace engram {

struct ConnectOptions {
  std::vector<std::string> coordinators;  // "host:port" each; tried in turn
  std::filesystem::path model_dir;        // with config.json and tokenizer.json; or
  const ModelTables* tables = nullptr;    // what was read of it already: then model_dir is unused
  ChannelSecurity security;               // certificates, or development mode on loopback
  // 0 = the current one: whichever is, batch by batch (ConnectRemote), or when it connects.
  TableVersion version;
  ReadWay way = ReadWay::kAuto;
  std::string tls = "auto";  // "auto", "tcp", "shm", or a UCX_TLS list
  // "off", "rdma", "shm" (UcxTransportOptions). Where the way is forced, off is rdma.
  std::string one_sided = "off";
  uint32_t io_threads = 1;
  ColumnStripe stripe;  // of striped batches (BatchOptions)
  // An I/O thread without work, and a caller of Await, look for some this long before they sleep.
  std::chrono::microseconds spin{};
  size_t cache_bytes = 0;  // of hot rows; 0 = none
  uint32_t batch_tokens_max = 1024;
  uint32_t staging_buffers = 4;
  StagingMemoryObserver* staging_observer = nullptr;  // outlives the rows; may be null
  // Rows go into the memory of a GPU where its network card can put them there, which one_sided
  // must allow; else, with a line in the log that says why, they are staged. Outlives the rows; may
  // be null. Wants cache_bytes 0 and a whole stripe.
  RowLanding* landing = nullptr;
  std::string zone;  // of this host, as the memory nodes name theirs; empty = none is preferred
  // For a version whose slots all have a ready replica.
  std::chrono::milliseconds ready_timeout{30000};
};

// Rows from the memory nodes of a cluster. Returns when the sessions with the nodes are open; a
// node that does not answer for a second is left out until it does, with a line in the log. ERRORS:
// kWrongModel where the cluster's tables would be hashed differently from this model; those of
// ReadModelTables, ShardDirectory::Connect, CreateRemoteRows and of the transport.
[[nodiscard]] Result<std::unique_ptr<RowSource>> ConnectRemote(const ConnectOptions& options);

// Blocking look-ups for tools. The model is not needed: without model_dir and tables, whatever the
// coordinator serves is read.
struct LookupConnection {
  std::shared_ptr<ShardDirectory> directory;  // layout, version, identity, maps
  std::unique_ptr<RowLookup> rows;
};
[[nodiscard]] Result<LookupConnection> ConnectLookup(const ConnectOptions& options);

}  // namespace engram
