// Calls over one control connection: framed Protobuf over TCP (docs/formats/control_frame.md).
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <google/protobuf/message_lite.h>

#include "engram/base/status.h"
#include "engram/security/tls_identity.h"

namespace engram {

// One connection, many calls in flight. Everything runs on the executor given, which must be a
// strand or a single-threaded io_context. Destroying the last reference closes the connection.
class RpcClient : public std::enable_shared_from_this<RpcClient> {
 public:
  // Looks the name up and connects, with a new attempt every 250 ms; `timeout` is for all of it.
  //   server_role  what the peer's certificate must say it is; its name is not looked at: pods and
  //                hosts come and go, and only the CA's owner makes certificates of that role
  // ERRORS: kUnavailable with address and reason, kDeadlineExceeded, kInvalidArgument (`address` is
  // not "host:port", or beyond loopback in development mode), kPermissionDenied (certificates).
  [[nodiscard]] static boost::asio::awaitable<Result<std::shared_ptr<RpcClient>>> Connect(
      boost::asio::any_io_executor executor, std::string address, std::chrono::milliseconds timeout,
      ChannelSecurity security = {}, Role server_role = Role::kCoordinator);
  virtual ~RpcClient() = default;

  // ERRORS: the peer's own code and message; kPeerLost; kDeadlineExceeded; kMalformed.
  // kPeerLost too where the peer's certificate has expired since, or its CA was dropped.
  [[nodiscard]] virtual boost::asio::awaitable<Result<std::string>> CallRaw(
      std::string_view method, std::string body, std::chrono::milliseconds timeout) = 0;
  // Who leads, as the last reply said ("host:port"); empty when it did not: then the peer leads, or
  // nobody does that it knows of. A reply that names a leader comes from a follower.
  [[nodiscard]] virtual const std::string& leader() const = 0;
  // "host:port" of the other end, numeric.
  [[nodiscard]] virtual const std::string& peer_address() const = 0;
  // Completes when the connection has ended, with the reason.
  [[nodiscard]] virtual boost::asio::awaitable<Status> Closed() = 0;
  virtual void Close() = 0;

  template <typename Reply>
  [[nodiscard]] boost::asio::awaitable<Result<Reply>> Call(
      std::string_view method, const google::protobuf::MessageLite& request,
      std::chrono::milliseconds timeout) {
    auto body = co_await CallRaw(method, request.SerializeAsString(), timeout);
    if (!body.has_value()) co_return Error(std::move(body).error());
    Reply reply;
    if (!reply.ParseFromString(*body)) {
      co_return Error(StatusCode::kMalformed,
                      "the reply to " + std::string(method) + " is not a " + reply.GetTypeName());
    }
    co_return reply;
  }
};

// For programs without an executor of their own (tools): connects, calls once, closes. Where the
// answer comes from a follower, its leader is asked too and its answer taken, if it gives one.
//   addresses  "host:port" each, at least one; the next is asked when one cannot be reached or is
//              kUnavailable. Each gets `timeout`.
// ERRORS: those of Connect and CallRaw, naming the address; where several were asked, of each.
// Blocks. Thread-safe.
[[nodiscard]] Result<std::string> RpcCallOnce(const std::vector<std::string>& addresses,
                                              std::string_view method, const std::string& body,
                                              std::chrono::milliseconds timeout,
                                              const ChannelSecurity& security = {});

}  // namespace engram
