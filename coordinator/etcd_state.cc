#include "coordinator/etcd_state.h"

#include <utility>

namespace engram {
namespace {

constexpr uint64_t kPageKeysMax = 16;  // of at most kEtcdPartBytesMax each

EtcdOp FirstPage(const std::string& prefix) {
  EtcdOp page = EtcdOp::Range(prefix, EndOfPrefix(prefix));
  page.keys_max = kPageKeysMax;
  return page;
}

// The pages after `first`, as of its revision.
Result<std::vector<EtcdKeyValue>> AllPages(EtcdClient& client, EtcdRangeReply first,
                                           const std::string& prefix, MonotonicTime deadline) {
  std::vector<EtcdKeyValue> keys = std::move(first.keys);
  size_t bytes = 0;
  size_t counted = 0;
  bool more = first.more;
  while (true) {
    for (; counted < keys.size(); ++counted) {
      bytes += keys[counted].key.size() + keys[counted].value.size();
    }
    if (bytes > kEtcdStateBytesMax) {
      return Error(StatusCode::kResourceExhausted,
                   "etcd holds more than " + std::to_string(kEtcdStateBytesMax) + " bytes under " +
                       prefix + " (kEtcdStateBytesMax)");
    }
    if (!more || keys.empty()) return keys;
    EtcdOp page = FirstPage(prefix);
    page.key = keys.back().key + '\0';
    page.revision = first.revision;
    ENGRAM_ASSIGN_OR_RETURN(EtcdRangeReply next, client.Range(page, deadline));
    more = next.more && !next.keys.empty();
    for (EtcdKeyValue& key : next.keys) keys.push_back(std::move(key));
  }
}

}  // namespace

Result<EtcdState> ReadEtcdState(EtcdClient& client, const EtcdKeys& names, MonotonicTime deadline) {
  EtcdTxn txn;
  txn.success = {EtcdOp::Range(names.leader), EtcdOp::Range(names.commit),
                 EtcdOp::Range(names.pending), EtcdOp::Range(names.restored),
                 FirstPage(names.records)};
  ENGRAM_ASSIGN_OR_RETURN(EtcdTxnReply reply, client.Txn(txn, deadline));
  if (reply.ranges.size() != txn.success.size()) {
    return Error(StatusCode::kMalformed, "etcd answered " + std::to_string(reply.ranges.size()) +
                                             " of " + std::to_string(txn.success.size()) +
                                             " questions");
  }
  EtcdState state;
  if (const auto& keys = reply.ranges[0].keys; !keys.empty()) {
    state.leader = keys[0].value;
  }
  if (const auto& keys = reply.ranges[1].keys; !keys.empty()) {
    state.commit_revision = keys[0].mod_revision;
  }
  ENGRAM_ASSIGN_OR_RETURN(state.restored, RestoredOf(names, reply.ranges[3].keys));
  ENGRAM_ASSIGN_OR_RETURN(auto record_keys,
                          AllPages(client, std::move(reply.ranges[4]), names.records, deadline));
  ENGRAM_ASSIGN_OR_RETURN(state.records, RecordsOf(names, std::move(record_keys)));
  if (const auto& keys = reply.ranges[2].keys; !keys.empty()) {
    EtcdOp page = FirstPage(names.event);
    page.revision = reply.revision;
    ENGRAM_ASSIGN_OR_RETURN(EtcdRangeReply first, client.Range(page, deadline));
    first.revision = reply.revision;
    ENGRAM_ASSIGN_OR_RETURN(const auto parts,
                            AllPages(client, std::move(first), names.event, deadline));
    ENGRAM_ASSIGN_OR_RETURN(state.pending, EventOf(names, keys[0].value, parts));
    state.has_pending = true;
    state.records = Overlay(std::move(state.records), state.pending);
  }
  return state;
}

}  // namespace engram
