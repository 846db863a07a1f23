// A connected TCP socket, plain or under TLS.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <variant>

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>

#include "engram/base/status.h"
#include "engram/security/peer_certificate.h"
#include "engram/security/tls_identity.h"

namespace engram {

// Used on the socket's executor only (a strand or a single-threaded io_context). One read and one
// write at a time.
class ByteStream {
 public:
  enum class Side : uint8_t { kClient, kServer };

  // `identity` null: plain.
  ByteStream(boost::asio::ip::tcp::socket socket, const std::shared_ptr<TlsIdentity>& identity);

  // Once, before anything else; nothing to do on a plain stream. ERRORS: kDeadlineExceeded,
  // kPermissionDenied (the peer's certificate is not of our CA, or ours not of its), kPeerLost
  // (anything else, such as a peer without TLS).
  [[nodiscard]] boost::asio::awaitable<Status> Handshake(Side side,
                                                         std::chrono::milliseconds timeout);
  // Who the peer is; null on a plain stream. After the handshake. ERRORS: those of PeerOf.
  [[nodiscard]] Result<std::shared_ptr<const PeerIdentity>> Peer();

  // Whether it would still be let in (PeerCertificate::Check); always on a plain stream. After
  // Peer().
  [[nodiscard]] Status CheckPeer();

  [[nodiscard]] boost::asio::awaitable<size_t> ReadSome(boost::asio::mutable_buffer to,
                                                        boost::system::error_code* error);
  [[nodiscard]] boost::asio::awaitable<size_t> WriteSome(boost::asio::const_buffer from,
                                                         boost::system::error_code* error);
  // At once, whatever is under way.
  void Close();

  [[nodiscard]] boost::asio::ip::tcp::socket& socket();

 private:
  using TlsStream = boost::asio::ssl::stream<boost::asio::ip::tcp::socket>;
  struct Tls {
    std::shared_ptr<boost::asio::ssl::context> context;  // outlives the stream
    std::unique_ptr<TlsStream> stream;
  };
  std::variant<boost::asio::ip::tcp::socket, Tls> stream_;
  std::shared_ptr<TlsIdentity> identity_;
  std::optional<PeerCertificate> peer_;
};

// What went wrong in a handshake, or later with a peer that refused our certificate: a sentence
// that says what to do. ERRORS: kPermissionDenied or kPeerLost.
[[nodiscard]] Status TlsFailure(const boost::system::error_code& error);

}  // namespace engram
