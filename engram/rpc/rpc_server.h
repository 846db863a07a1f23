// The listening side of rpc_client.h.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>

#include "engram/base/status.h"
#include "engram/security/audit_log.h"
#include "engram/security/tls_identity.h"

namespace engram {

// One accepted connection, as a handler sees it.
struct RpcPeer {
  uint64_t connection_id = 0;                              // distinct within one server
  std::string address;                                     // "host:port" of the peer
  std::shared_ptr<const PeerIdentity> identity = nullptr;  // null in development mode
};

// What readers send is shorter: a UCX worker's address of 64 KiB at most, a token, a list of nodes.
inline constexpr uint32_t kReaderFrameBytesMax = 128u << 10;

// Everything, handlers included, runs on the executor given (a strand or a single-threaded
// io_context). Handlers of one connection may overlap when they suspend.
class RpcServer {
 public:
  struct Options {
    std::string listen_address;  // "host:port"; port 0 = any free one
    // One more is closed at once; so is one more of a host that has as many as are still free: one
    // host alone may have half of them, two a third each.
    uint32_t connections_max = 4096;
    // Beside those; one more ends the oldest of the host that has most.
    uint32_t handshakes_max = 256;
    uint32_t calls_in_flight_max = 256;  // per connection; one more gets kResourceExhausted
    // A longer frame closes the connection; so does one of a reader above kReaderFrameBytesMax.
    uint32_t frame_bytes_max = 64u << 20;
    // Of frames that have begun to come, of all connections: over it the connection with most, of
    // the host with most, is closed.
    uint64_t coming_bytes_max = 128u << 20;
    std::chrono::milliseconds handshake_timeout{10'000};
    // For the first frame, and for the rest of a frame that has begun; then the connection closes.
    std::chrono::milliseconds frame_timeout{30'000};
    // Asked as each reply leaves, on the executor: "host:port" of who leads, sent with the reply;
    // empty = this process does, or nobody knows. Null where nobody leads anybody.
    std::function<std::string()> leader = nullptr;
    // With an identity every caller shows a certificate, and CheckCall decides what it may call.
    // A connection ends within some two seconds of its certificate, or of its CA.
    ChannelSecurity security = {};
    // Gets changes and refusals; null = nobody does.
    std::shared_ptr<AuditLog> audit = nullptr;
    // What a change is about, for the audit log, from its method and body; asked where the caller
    // may call it. Null: nothing.
    std::function<std::string(std::string_view method, const std::string& body)> describe = nullptr;
  };
  // Gives the reply's body. Exceptions become kInternal.
  using Handler = std::function<boost::asio::awaitable<Result<std::string>>(
      const RpcPeer& peer, std::string_view method, std::string body)>;
  using OnDisconnect = std::function<void(const RpcPeer& peer)>;

  // ERRORS: kIo naming the address, and the fix when the port is taken; kInvalidArgument
  // (development mode beyond loopback).
  [[nodiscard]] static Result<std::unique_ptr<RpcServer>> Create(
      boost::asio::any_io_executor executor, const Options& options, Handler handler,
      OnDisconnect on_disconnect = nullptr);
  // Ends every connection. Call on the executor, or when it no longer runs.
  virtual ~RpcServer() = default;

  // "host:port" really listened on.
  [[nodiscard]] virtual std::string address() const = 0;
  // Closes one connection (for instance when its session was refused). On the executor.
  virtual void Disconnect(uint64_t connection_id) = 0;
};

}  // namespace engram
