// Everything that is in etcd, as of one moment.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "coordinator/etcd_client.h"
#include "coordinator/etcd_records.h"
#include "coordinator/metadata_store.h"

namespace engram {

struct EtcdState {
  std::string leader;  // its "host:port"; empty = nobody leads
  EtcdRestored restored;
  uint64_t commit_revision = 0;         // of the last write; 0 = none yet
  std::vector<MetadataRecord> records;  // in the order of keys, `pending` applied
  // The last event is committed, but not yet all where it belongs.
  std::vector<MetadataRecord> pending;
  bool has_pending = false;
};

// Blocks, on the client's thread, until `deadline` at the latest.
// ERRORS: those of EtcdClient; kCorrupt; kResourceExhausted (more than kEtcdStateBytesMax).
[[nodiscard]] Result<EtcdState> ReadEtcdState(EtcdClient& client, const EtcdKeys& names,
                                              MonotonicTime deadline);

}  // namespace engram
