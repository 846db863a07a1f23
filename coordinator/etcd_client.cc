#include "coordinator/etcd_client.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <nlohmann/json.hpp>

#include "engram/base/check.h"
#include "engram/rpc/host_port.h"

namespace engram {
namespace {

namespace http = boost::beast::http;
using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kPrefixBytesMax = 200;
constexpr size_t kEndpointsMax = 16;

}  // namespace

Result<EtcdAddress> ParseEtcdAddress(std::string_view text) {
  constexpr std::string_view kScheme = "etcd://";
  const auto bad = [&](const std::string& why) {
    return Error(StatusCode::kInvalidArgument, "'" + std::string(text) + "' " + why +
                                                   ": write etcd://host:2379,host2:2379/prefix");
  };
  if (!text.starts_with(kScheme)) return bad("does not begin with etcd://");
  const std::string_view rest = text.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  EtcdAddress address;
  auto endpoints = ParseAddresses(rest.substr(0, slash));
  if (!endpoints.has_value())
    return bad("names an etcd wrongly (" + endpoints.error().message() + ")");
  address.endpoints = *std::move(endpoints);
  if (address.endpoints.size() > kEndpointsMax) return bad("names more than 16 etcds");
  std::string_view prefix = rest.substr(slash);
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

// One HTTP connection, driven to the end of each step by the thread that calls.
class EtcdClient::Connection {
 public:
  Connection(std::string endpoint, size_t reply_bytes_max)
      : endpoint_(std::move(endpoint)), reply_bytes_max_(reply_bytes_max), stream_(io_) {}

  [[nodiscard]] bool connected() const { return connected_; }

  struct Reply {
    error_code error;
    unsigned status = 0;
    std::string body;
    bool keep_alive = false;
  };
  // Connects where it is not yet. `until` bounds everything.
  Reply Post(std::string_view path, const std::string& body, MonotonicTime until) {
    Reply reply;
    boost::asio::co_spawn(io_, Exchange(path, body, until, &reply), boost::asio::detached);
    io_.restart();
    io_.run();
    return reply;
  }

 private:
  awaitable<void> Exchange(std::string_view path, const std::string& body, MonotonicTime until,
                           Reply* reply) {
    stream_.expires_at(until);
    if (!connected_) {
      const auto address = ParseHostPort(endpoint_);
      ENGRAM_CHECK(address.has_value());  // checked when the client was made
      tcp::resolver resolver(io_);
      const auto found =
          co_await resolver.async_resolve(address->host, std::to_string(address->port),
                                          redirect_error(use_awaitable, reply->error));
      if (reply->error) co_return;
      co_await stream_.async_connect(found, redirect_error(use_awaitable, reply->error));
      if (reply->error) co_return;
      SetConnectionOptions(stream_.socket());
      connected_ = true;
    }
    http::request<http::string_body> request{http::verb::post, {path.data(), path.size()}, 11};
    request.set(http::field::host, endpoint_);
    request.set(http::field::content_type, "application/json");
    request.body() = body;
    request.prepare_payload();
    co_await http::async_write(stream_, request, redirect_error(use_awaitable, reply->error));
    if (reply->error) co_return;
    http::response_parser<http::string_body> parser;
    parser.body_limit(reply_bytes_max_);
    co_await http::async_read(stream_, buffer_, parser,
                              redirect_error(use_awaitable, reply->error));
    if (reply->error) co_return;
    reply->status = parser.get().result_int();
    reply->keep_alive = parser.get().keep_alive();
    reply->body = std::move(parser.get().body());
  }

  const std::string endpoint_;
  const size_t reply_bytes_max_;
  boost::asio::io_context io_{1};
  boost::beast::tcp_stream stream_;
  boost::beast::flat_buffer buffer_;
  bool connected_ = false;
};

EtcdClient::EtcdClient(Options options) : options_(std::move(options)) {
  ENGRAM_CHECK(!options_.endpoints.empty());
  for (const std::string& endpoint : options_.endpoints) {
    ENGRAM_CHECK(ParseHostPort(endpoint).has_value());
  }
}

EtcdClient::~EtcdClient() = default;

Result<nlohmann::json> EtcdClient::Ask(std::string_view path, const std::string& body,
                                       MonotonicTime until) {
  const std::string& endpoint = options_.endpoints[endpoint_];
  const bool reused = connection_ != nullptr;
  if (!reused) connection_ = std::make_unique<Connection>(endpoint, options_.reply_bytes_max);
  Connection::Reply reply = connection_->Post(path, body, until);
  if (reply.error && reused && reply.error != boost::beast::error::timeout) {
    // etcd may have closed it since the last call, for instance because it was restarted.
    connection_ = std::make_unique<Connection>(endpoint, options_.reply_bytes_max);
    reply = connection_->Post(path, body, until);
  }
  if (reply.error) {
    const bool was_connected = connection_->connected();
    connection_ = nullptr;
    return Error(
        StatusCode::kUnavailable,
        endpoint + ": " +
            (reply.error == boost::beast::error::timeout
                 ? std::string(was_connected ? "no answer in time" : "no connection in time")
                 : reply.error.message()));
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
               "no etcd answers (" + failures + "): start it, or correct --store");
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
