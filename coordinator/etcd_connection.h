// One HTTP connection to one etcd: plain, or under mutual TLS 1.3.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <variant>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>

#include "engram/base/clock.h"
#include "engram/base/status.h"
#include "engram/rpc/host_port.h"
#include "engram/security/tls_identity.h"

namespace engram {

// Whether `endpoint` may be spoken to without TLS: on loopback only. A name that cannot be resolved
// now may: a connection looks again. Blocks for the resolver. ERRORS: kInvalidArgument.
[[nodiscard]] Status CheckPlainEtcd(const std::string& endpoint);

// Driven to the end of each step by the thread that calls. Thread-compatible.
class EtcdConnection {
 public:
  struct Options {
    std::string endpoint;  // "host:port"
    size_t reply_bytes_max = 0;
    // Null: plain. Else etcd's certificate must be of its CA and for the endpoint's host, and its
    // own certificate is shown.
    std::shared_ptr<TlsIdentity> identity;
    bool insecure = false;  // plain beyond loopback
  };
  explicit EtcdConnection(Options options);

  struct Reply {
    // ERRORS: kUnavailable, a sentence without the endpoint; those of CheckPlainEtcd.
    Status failure;
    bool timed_out = false;
    unsigned status = 0;
    std::string body;
    bool keep_alive = false;
  };
  // Connects where it is not yet. `until` bounds everything.
  [[nodiscard]] Reply Post(std::string_view path, const std::string& body, MonotonicTime until);

  // The identity's files have changed since this was made.
  [[nodiscard]] bool outdated() const;

 private:
  using TlsStream = boost::beast::ssl_stream<boost::beast::tcp_stream>;
  struct Tls {
    std::shared_ptr<boost::asio::ssl::context> context;  // outlives the stream
    std::unique_ptr<TlsStream> stream;
  };

  boost::asio::awaitable<void> Exchange(std::string_view path, const std::string& body,
                                        MonotonicTime until, Reply* reply);
  boost::asio::awaitable<Status> Connect(MonotonicTime until);
  boost::asio::awaitable<Status> Handshake();
  template <typename Stream>
  boost::asio::awaitable<Status> Ask(Stream& stream, std::string_view path, const std::string& body,
                                     Reply* reply);
  [[nodiscard]] Status Failed(const boost::system::error_code& error);
  [[nodiscard]] boost::beast::tcp_stream& tcp();

  const Options options_;
  const HostPort address_;
  boost::asio::io_context io_{1};
  std::variant<boost::beast::tcp_stream, Tls> stream_;
  boost::beast::flat_buffer buffer_;
  bool connected_ = false;
  bool timed_out_ = false;
};

}  // namespace engram
