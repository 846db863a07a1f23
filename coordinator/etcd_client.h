// Calls to an etcd cluster's v3 JSON gateway over HTTP, plain or under TLS.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "coordinator/etcd_connection.h"
#include "coordinator/etcd_messages.h"
#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/security/tls_identity.h"

namespace engram {

struct EtcdAddress {
  std::vector<std::string> endpoints;  // "host:port" each, one at least
  std::string prefix;                  // of every key, without a '/' at its ends; not empty
  bool tls = false;
};

// "https://host:2379,host2:2379/prefix" with TLS, "http://..." or "etcd://..." without; further
// endpoints may repeat the scheme. The prefix is "engram" where none is given.
// ERRORS: kInvalidArgument showing what is wrong.
[[nodiscard]] Result<EtcdAddress> ParseEtcdAddress(std::string_view text);

// One call at a time, over one connection that is kept; a call blocks its thread, for a bounded
// time. An endpoint that fails is left for the next one. A call whose reply was lost is sent again,
// to another endpoint or the same: it may be done twice, the second time later than a call that
// came after. Where the identity's files change a new connection is made with them.
// Thread-compatible: each thread has its own.
class EtcdClient {
 public:
  struct Options {
    std::vector<std::string> endpoints;           // "host:port", one at least
    std::chrono::milliseconds try_timeout{1000};  // for each endpoint
    size_t reply_bytes_max = 64u << 20;
    std::shared_ptr<TlsIdentity> identity;  // null: plain,
    bool insecure = false;                  // on loopback only, unless this is set
  };
  explicit EtcdClient(Options options);
  ~EtcdClient();

  // Each endpoint is tried once, until `deadline`.
  // ERRORS: kUnavailable naming every endpoint that was tried and why it failed, a certificate that
  // is refused too; kInvalidArgument (plain beyond loopback); those of EtcdFailure and the
  // message's parser, naming the endpoint.
  [[nodiscard]] Result<EtcdRangeReply> Range(const EtcdOp& range, MonotonicTime deadline);
  [[nodiscard]] Result<EtcdTxnReply> Txn(const EtcdTxn& txn, MonotonicTime deadline);
  // The lease ends by itself `ttl` after the last KeepAlive.
  [[nodiscard]] Result<EtcdLease> GrantLease(std::chrono::seconds ttl, MonotonicTime deadline);
  // ttl_s == 0 in the reply: it has ended.
  [[nodiscard]] Result<EtcdLease> KeepAlive(uint64_t lease, MonotonicTime deadline);
  // Ends it now, and every key that has it.
  [[nodiscard]] Status RevokeLease(uint64_t lease, MonotonicTime deadline);

 private:
  [[nodiscard]] Result<nlohmann::json> Call(std::string_view path, const nlohmann::json& request,
                                            MonotonicTime deadline);
  // One endpoint, once. ERRORS: kUnavailable (another may answer), and the reply's own.
  [[nodiscard]] Result<nlohmann::json> Ask(std::string_view path, const std::string& body,
                                           MonotonicTime until);

  [[nodiscard]] std::unique_ptr<EtcdConnection> NewConnection() const;

  const Options options_;
  size_t endpoint_ = 0;                         // the one in use
  std::unique_ptr<EtcdConnection> connection_;  // null while there is none
};

}  // namespace engram
