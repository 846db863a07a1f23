#include "coordinator/etcd_client.h"

#include <algorithm>
#include <array>
#include <utility>

#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "engram/rpc/host_port.h"

namespace engram {
namespace {

constexpr size_t kPrefixBytesMax = 200;
constexpr size_t kEndpointsMax = 16;
constexpr std::string_view kTlsScheme = "https://";
constexpr std::array<std::string_view, 3> kSchemes = {"etcd://", "http://", kTlsScheme};

}  // namespace

Result<EtcdAddress> ParseEtcdAddress(std::string_view text) {
  const auto bad = [&](const std::string& why) {
    return Error(StatusCode::kInvalidArgument,
                 "'" + std::string(text) + "' " + why +
                     ": write etcd://host:2379,host2:2379/prefix, or https://host:2379 and so on "
                     "with --etcd-certs");
  };
  const auto scheme = std::find_if(kSchemes.begin(), kSchemes.end(),
                                   [&](std::string_view one) { return text.starts_with(one); });
  if (scheme == kSchemes.end()) return bad("does not begin with etcd://, http:// or https://");
  EtcdAddress address;
  address.tls = *scheme == kTlsScheme;
  std::string list;
  std::string_view rest = text;
  while (true) {
    if (rest.starts_with(*scheme)) rest.remove_prefix(scheme->size());
    const size_t end = std::min(rest.find_first_of(",/"), rest.size());
    list += rest.substr(0, end);
    rest.remove_prefix(end);
    if (!rest.starts_with(',')) break;
    list += ',';
    rest.remove_prefix(1);
  }
  if (rest.starts_with("//")) return bad("names etcds in two ways, one with and one without TLS");
  auto endpoints = ParseAddresses(list);
  if (!endpoints.has_value())
    return bad("names an etcd wrongly (" + endpoints.error().message() + ")");
  address.endpoints = *std::move(endpoints);
  if (address.endpoints.size() > kEndpointsMax) return bad("names more than 16 etcds");
  std::string_view prefix = rest;
  while (!prefix.empty() && prefix.front() == '/') prefix.remove_prefix(1);
  while (!prefix.empty() && prefix.back() == '/') prefix.remove_suffix(1);
  address.prefix = prefix.empty() ? "engram" : std::string(prefix);
  const bool printable = std::all_of(address.prefix.begin(), address.prefix.end(),
                                     [](char c) { return c > ' ' && c < 0x7f; });
  if (!printable || address.prefix.size() > kPrefixBytesMax) {
    return bad("has a prefix with other than 1 to 200 printable ASCII characters");
  }
  return address;
}

EtcdClient::EtcdClient(Options options) : options_(std::move(options)) {
  ENGRAM_CHECK(!options_.endpoints.empty());
  for (const std::string& endpoint : options_.endpoints) {
    ENGRAM_CHECK(ParseHostPort(endpoint).has_value());
  }
}

EtcdClient::~EtcdClient() = default;

std::unique_ptr<EtcdConnection> EtcdClient::NewConnection() const {
  return std::make_unique<EtcdConnection>(
      EtcdConnection::Options{.endpoint = options_.endpoints[endpoint_],
                              .reply_bytes_max = options_.reply_bytes_max,
                              .identity = options_.identity,
                              .insecure = options_.insecure});
}

Result<nlohmann::json> EtcdClient::Ask(std::string_view path, const std::string& body,
                                       MonotonicTime until) {
  const std::string& endpoint = options_.endpoints[endpoint_];
  if (connection_ != nullptr && connection_->outdated()) connection_ = nullptr;
  const bool reused = connection_ != nullptr;
  if (!reused) connection_ = NewConnection();
  EtcdConnection::Reply reply = connection_->Post(path, body, until);
  if (!reply.failure.ok() && reused && !reply.timed_out) {
    // etcd may have closed it since the last call, for instance because it was restarted.
    connection_ = NewConnection();
    reply = connection_->Post(path, body, until);
  }
  if (!reply.failure.ok()) {
    connection_ = nullptr;
    if (reply.failure.code() != StatusCode::kUnavailable) return Error(std::move(reply.failure));
    return Error(StatusCode::kUnavailable, endpoint + ": " + reply.failure.message());
  }
  if (!reply.keep_alive) connection_ = nullptr;
  if (reply.status != 200) {
    return Error(EtcdFailure(reply.status, reply.body).WithContext(endpoint));
  }
  auto json = ParseEtcdJson(reply.body);
  if (!json.has_value()) {
    return Error(json.error().WithContext(endpoint + std::string(path) + ": is etcd there?"));
  }
  return json;
}

Result<nlohmann::json> EtcdClient::Call(std::string_view path, const nlohmann::json& request,
                                        MonotonicTime deadline) {
  const std::string body = request.dump();
  std::string failures;
  for (size_t tried = 0; tried < options_.endpoints.size(); ++tried) {
    const MonotonicTime now = SteadyClock().Now();
    if (tried > 0 && now >= deadline) break;
    auto reply = Ask(path, body, std::min(deadline, now + options_.try_timeout));
    if (reply.has_value() || reply.error().code() != StatusCode::kUnavailable) return reply;
    failures += (tried > 0 ? "; " : "") + reply.error().message();
    connection_ = nullptr;
    endpoint_ = (endpoint_ + 1) % options_.endpoints.size();
  }
  return Error(StatusCode::kUnavailable,
               "no etcd answers (" + failures + "): start it, or correct --store" +
                   (options_.identity == nullptr ? "" : " or --etcd-certs"));
}

Result<EtcdRangeReply> EtcdClient::Range(const EtcdOp& range, MonotonicTime deadline) {
  ENGRAM_ASSIGN_OR_RETURN(const auto reply, Call("/v3/kv/range", RangeRequest(range), deadline));
  return ParseRangeReply(reply);
}

Result<EtcdTxnReply> EtcdClient::Txn(const EtcdTxn& txn, MonotonicTime deadline) {
  ENGRAM_ASSIGN_OR_RETURN(const auto reply, Call("/v3/kv/txn", TxnRequest(txn), deadline));
  return ParseTxnReply(reply);
}

Result<EtcdLease> EtcdClient::GrantLease(std::chrono::seconds ttl, MonotonicTime deadline) {
  ENGRAM_ASSIGN_OR_RETURN(
      const auto reply, Call("/v3/lease/grant", {{"TTL", std::to_string(ttl.count())}}, deadline));
  return ParseLeaseReply(reply);
}

Result<EtcdLease> EtcdClient::KeepAlive(uint64_t lease, MonotonicTime deadline) {
  ENGRAM_ASSIGN_OR_RETURN(const auto reply,
                          Call("/v3/lease/keepalive", {{"ID", std::to_string(lease)}}, deadline));
  return ParseLeaseReply(reply);
}

Status EtcdClient::RevokeLease(uint64_t lease, MonotonicTime deadline) {
  const auto reply = Call("/v3/lease/revoke", {{"ID", std::to_string(lease)}}, deadline);
  return reply.has_value() ? Status() : reply.error();
}

}  // namespace engram
