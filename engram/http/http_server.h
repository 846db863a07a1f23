// A small HTTP/1.1 server on Boost.Beast: health, metrics, admin pages, and the model worker's API.
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

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // "/v1/completions", without the query
  std::string query;   // after '?', may be empty
  std::string body;
  std::string peer;                                        // "host:port"
  std::shared_ptr<const PeerIdentity> identity = nullptr;  // as its certificate says; null: none
};

// Answers one request: Respond once, or StartStream, Write*, EndStream. Used by the handler's
// coroutine only.
class HttpResponder {
 public:
  virtual ~HttpResponder() = default;
  // ERRORS (all four): kPeerLost when the client has gone: stop the work.
  [[nodiscard]] virtual boost::asio::awaitable<Status> Respond(int status,
                                                               std::string_view content_type,
                                                               std::string body) = 0;
  [[nodiscard]] virtual boost::asio::awaitable<Status> StartStream(
      int status, std::string_view content_type) = 0;
  // One HTTP chunk, sent at once.
  [[nodiscard]] virtual boost::asio::awaitable<Status> Write(std::string chunk) = 0;
  [[nodiscard]] virtual boost::asio::awaitable<Status> EndStream() = 0;
  // Adds a header to the coming response, such as Retry-After. Before Respond or StartStream.
  virtual void AddHeader(std::string_view name, std::string_view value) = 0;
  // True once the client has closed its side; checked by a handler that waits for long.
  [[nodiscard]] virtual bool PeerGone() = 0;
};

// Everything runs on the executor given (a strand or a single-threaded io_context).
class HttpServer {
 public:
  struct Options {
    std::string listen_address;  // "host:port"; port 0 = any free one
    // One more gets 503; so does one more of a host that has as many as are still free. Handshakes
    // are as many again: one more ends the oldest of the host that has most.
    uint32_t connections_max = 1024;
    // Under TLS, beside those, of peers without a certificate, which are answered once: one more
    // ends the oldest of the host that has most.
    uint32_t strangers_max = 64;
    uint32_t body_bytes_max = 4u << 10;  // a longer body gets 413
    // Of bodies of all connections, until they are answered; a host may have as much as is still
    // free. One more gets 503. At least twice body_bytes_max.
    uint64_t bodies_bytes_max = 256u << 20;
    // For a handshake, and for a request to come; then the connection closes.
    std::chrono::milliseconds request_timeout{30'000};
    // With an identity: HTTPS, and a request without a certificate of our CA gets 403, before its
    // body is read, except where PathIsOpen says so (probes have none). One whose certificate, or
    // its CA, has ended since the connection was made gets 403 too.
    ChannelSecurity security = {};
    std::shared_ptr<AuditLog> audit = nullptr;  // gets refusals; null = nobody does
  };
  using Handler = std::function<boost::asio::awaitable<void>(const HttpRequest& request,
                                                             HttpResponder& responder)>;
  // A handler that returns without responding gives 404; one that throws gives 500.
  // ERRORS: kIo naming the address, and the fix when the port is taken; kInvalidArgument
  // (development mode beyond loopback).
  [[nodiscard]] static Result<std::unique_ptr<HttpServer>> Create(
      boost::asio::any_io_executor executor, const Options& options, Handler handler);
  virtual ~HttpServer() = default;

  // "host:port" really listened on.
  [[nodiscard]] virtual std::string address() const = 0;
};

}  // namespace engram
