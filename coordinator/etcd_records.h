// How metadata records lie in etcd (docs/formats/state.md). Pure: records to operations, keys back
// to records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "coordinator/etcd_messages.h"
#include "coordinator/metadata_store.h"

namespace engram {

// etcd takes at most 128 operations and 1.5 MiB a transaction (its --max-txn-ops and
// --max-request-bytes); the fence and the envelope need some of both.
inline constexpr size_t kEtcdTxnOpsMax = 100;
inline constexpr size_t kEtcdTxnBytesMax = 1u << 20;
// A longer value lies in several keys.
inline constexpr size_t kEtcdPartBytesMax = 512u << 10;
inline constexpr size_t kEtcdPartsMax = 1000;
// What a coordinator reads back at most.
inline constexpr size_t kEtcdStateBytesMax = 512u << 20;

// The names of the keys under a prefix.
struct EtcdKeys {
  explicit EtcdKeys(const std::string& prefix)
      : leader(prefix + "/leader"),
        commit(prefix + "/commit"),
        restored(prefix + "/restored"),
        pending(prefix + "/pending"),
        event(prefix + "/event/"),
        records(prefix + "/records/") {}

  const std::string leader;    // -> the leader's "host:port"; its create revision is the term
  const std::string commit;    // -> "term/count" of the last write; each write compares and sets it
  const std::string restored;  // -> EtcdRestored: the last snapshot that was put back; or absent
  const std::string pending;   // -> EtcdPendingEvent: the event under `event` is committed
  const std::string event;     // + part: a large event, in parts
  const std::string records;   // + record's key [+ part]
};

// A snapshot that was put back: etcd counts its revisions from there again, and terms must not be.
struct EtcdRestored {
  uint64_t revisions_skipped = 0;  // a term is a create revision and this
  std::string name;                // what --restored called it; empty = none was
};
[[nodiscard]] std::string EncodeRestored(const EtcdRestored& restored);
// Back from the key's value, or from its absence. ERRORS: kCorrupt.
[[nodiscard]] Result<EtcdRestored> RestoredOf(const EtcdKeys& names,
                                              const std::vector<EtcdKeyValue>& keys);

// The last record of each key, in the order of keys: etcd takes no key twice in a transaction.
[[nodiscard]] std::vector<MetadataRecord> LastOfEachKey(const std::vector<MetadataRecord>& records);

// Operations that write `records` where they belong, in groups for one transaction each.
// Precondition: each key comes once.
// ERRORS: kInvalidArgument (a key with a zero byte, or none; a value of more than kEtcdPartsMax
// parts), naming the key.
[[nodiscard]] Result<std::vector<std::vector<EtcdOp>>> RecordOps(
    const EtcdKeys& names, const std::vector<MetadataRecord>& records);

// A large event: the operations that lay its parts down, each fit for a transaction of its own, and
// the value of `pending` that makes them count.
struct EtcdEvent {
  std::vector<EtcdOp> parts;
  std::string pending;
};
[[nodiscard]] EtcdEvent EncodeEvent(const EtcdKeys& names,
                                    const std::vector<MetadataRecord>& records);

// Back from the keys under `names.records`, in their order. ERRORS: kCorrupt naming the key.
[[nodiscard]] Result<std::vector<MetadataRecord>> RecordsOf(const EtcdKeys& names,
                                                            std::vector<EtcdKeyValue> keys);
// Back from `pending`'s value and the keys under `names.event`. ERRORS: kCorrupt.
[[nodiscard]] Result<std::vector<MetadataRecord>> EventOf(const EtcdKeys& names,
                                                          std::string_view pending,
                                                          const std::vector<EtcdKeyValue>& parts);
// `records` once `event` is written too.
[[nodiscard]] std::vector<MetadataRecord> Overlay(std::vector<MetadataRecord> records,
                                                  std::vector<MetadataRecord> event);

}  // namespace engram
