// The messages of etcd's v3 JSON gateway that the store uses. Pure: values to JSON, JSON to values.
// Keys and values are bytes, in base64 on the wire; 64-bit numbers are text; a field that is zero
// is left out (https://etcd.io/docs/v3.4/dev-guide/api_grpc_gateway/).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "engram/base/status.h"

namespace engram {

struct EtcdKeyValue {
  std::string key;
  std::string value;
  uint64_t create_revision = 0;
  uint64_t mod_revision = 0;

  friend bool operator==(const EtcdKeyValue&, const EtcdKeyValue&) = default;
};

struct EtcdOp {
  enum class Kind { kPut, kDelete, kRange };
  Kind kind = Kind::kRange;
  std::string key;
  std::string range_end;  // kDelete, kRange: keys in [key, range_end); empty = key alone
  std::string value;      // kPut
  uint64_t lease = 0;     // kPut
  uint64_t keys_max = 0;  // kRange; 0 = all
  uint64_t revision = 0;  // kRange: as of then; 0 = now

  [[nodiscard]] static EtcdOp Put(std::string key, std::string value, uint64_t lease = 0);
  [[nodiscard]] static EtcdOp Delete(std::string key, std::string range_end = {});
  [[nodiscard]] static EtcdOp Range(std::string key, std::string range_end = {});
};

struct EtcdCompare {
  enum class Target { kCreateRevision, kModRevision };
  std::string key;
  Target target = Target::kCreateRevision;
  uint64_t equals = 0;  // 0 = there is no such key
};

// Where all of `compares` hold, `success` is done, else `failure`.
struct EtcdTxn {
  std::vector<EtcdCompare> compares;
  std::vector<EtcdOp> success;
  std::vector<EtcdOp> failure;
};

struct EtcdRangeReply {
  uint64_t revision = 0;  // of the store, when it answered
  std::vector<EtcdKeyValue> keys;
  bool more = false;  // keys_max was reached
};

struct EtcdTxnReply {
  bool succeeded = false;
  uint64_t revision = 0;               // after the transaction
  std::vector<EtcdRangeReply> ranges;  // of the branch's kRange operations, in their order
};

struct EtcdLease {
  uint64_t id = 0;
  int64_t ttl_s = 0;  // 0 = the lease has ended
};

[[nodiscard]] std::string ToBase64(std::string_view bytes);
// None when `text` is not base64 with its padding.
[[nodiscard]] std::optional<std::string> FromBase64(std::string_view text);

// The first key after all that begin with `prefix`: the end of their range.
// Precondition: `prefix` is not empty and does not end in a 0xff byte.
[[nodiscard]] std::string EndOfPrefix(std::string prefix);

// For /v3/kv/range and /v3/kv/txn.
[[nodiscard]] nlohmann::json RangeRequest(const EtcdOp& range);
[[nodiscard]] nlohmann::json TxnRequest(const EtcdTxn& txn);

// ERRORS: kMalformed saying what is wrong.
[[nodiscard]] Result<nlohmann::json> ParseEtcdJson(std::string_view text);
[[nodiscard]] Result<EtcdRangeReply> ParseRangeReply(const nlohmann::json& reply);
[[nodiscard]] Result<EtcdTxnReply> ParseTxnReply(const nlohmann::json& reply);
// Of /v3/lease/grant, and of /v3/lease/keepalive.
[[nodiscard]] Result<EtcdLease> ParseLeaseReply(const nlohmann::json& reply);
// What an error reply means for the caller; `http_status` is not 200.
[[nodiscard]] Status EtcdFailure(unsigned http_status, std::string_view body);

}  // namespace engram
