#include "engram/rpc/byte_stream.h"

#include <string>
#include <utility>

#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <openssl/ssl.h>

namespace engram {

using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

ByteStream::ByteStream(tcp::socket socket, const std::shared_ptr<TlsIdentity>& identity)
    : stream_(std::move(socket)), identity_(identity) {
  if (identity == nullptr) return;
  Tls tls;
  tls.context = identity->Context();
  tls.stream = std::make_unique<TlsStream>(std::move(std::get<tcp::socket>(stream_)), *tls.context);
  stream_ = std::move(tls);
}

tcp::socket& ByteStream::socket() {
  if (auto* const plain = std::get_if<tcp::socket>(&stream_)) return *plain;
  return std::get<Tls>(stream_).stream->next_layer();
}

awaitable<Status> ByteStream::Handshake(Side side, std::chrono::milliseconds timeout) {
  auto* const tls = std::get_if<Tls>(&stream_);
  if (tls == nullptr) co_return Status();
  boost::asio::steady_timer timer(socket().get_executor());
  timer.expires_after(timeout);
  // The handler may run after the handshake, and after this object, all the same.
  struct State {
    bool late = false;
    bool over = false;
  };
  const auto state = std::make_shared<State>();
  timer.async_wait([state, this](const error_code& error) {
    if (error || state->over) return;
    state->late = true;
    Close();
  });
  error_code error;
  co_await tls->stream->async_handshake(side == Side::kClient
                                            ? boost::asio::ssl::stream_base::client
                                            : boost::asio::ssl::stream_base::server,
                                        redirect_error(use_awaitable, error));
  state->over = true;
  if (state->late) {
    co_return Status(StatusCode::kDeadlineExceeded,
                     "no TLS handshake within " + std::to_string(timeout.count()) +
                         " ms: does the peer run without certificates?");
  }
  if (error) co_return TlsFailure(error);
  co_return Status();
}

Result<std::shared_ptr<const PeerIdentity>> ByteStream::Peer() {
  auto* const tls = std::get_if<Tls>(&stream_);
  if (tls == nullptr) return nullptr;
  ENGRAM_ASSIGN_OR_RETURN(peer_, PeerCertificate::Of(tls->stream->native_handle(), tls->context));
  return peer_->identity();
}

Status ByteStream::CheckPeer() { return peer_.has_value() ? peer_->Check(*identity_) : Status(); }

awaitable<size_t> ByteStream::ReadSome(boost::asio::mutable_buffer to, error_code* error) {
  if (auto* const plain = std::get_if<tcp::socket>(&stream_)) {
    co_return co_await plain->async_read_some(to, redirect_error(use_awaitable, *error));
  }
  const size_t count = co_await std::get<Tls>(stream_).stream->async_read_some(
      to, redirect_error(use_awaitable, *error));
  // A peer that ends its process does not say goodbye; frames say where they end.
  if (*error == boost::asio::ssl::error::stream_truncated) *error = boost::asio::error::eof;
  co_return count;
}

awaitable<size_t> ByteStream::WriteSome(boost::asio::const_buffer from, error_code* error) {
  if (auto* const plain = std::get_if<tcp::socket>(&stream_)) {
    co_return co_await plain->async_write_some(from, redirect_error(use_awaitable, *error));
  }
  co_return co_await std::get<Tls>(stream_).stream->async_write_some(
      from, redirect_error(use_awaitable, *error));
}

void ByteStream::Close() {
  error_code ignored;
  socket().shutdown(tcp::socket::shutdown_both, ignored);
  socket().close(ignored);
}

Status TlsFailure(const error_code& error) {
  if (error.category() != boost::asio::error::get_ssl_category()) {
    return {StatusCode::kPeerLost, "the TLS handshake broke off (" + error.message() +
                                       "): does the peer run without certificates?"};
  }
  switch (ERR_GET_REASON(static_cast<unsigned long>(error.value()))) {
    case SSL_R_CERTIFICATE_VERIFY_FAILED:
      return {StatusCode::kPermissionDenied,
              "the peer's certificate is not one of our CA, or not valid now (" + error.message() +
                  "): both sides need certificates of one CA (engramctl certs show)"};
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
      return {StatusCode::kPermissionDenied,
              "the peer showed no certificate: give it one (--certs FOLDER)"};
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN:
    case SSL_R_TLSV13_ALERT_CERTIFICATE_REQUIRED:
    case SSL_R_TLSV1_ALERT_ACCESS_DENIED:
      return {StatusCode::kPermissionDenied,
              "the peer refused our certificate (" + error.message() +
                  "): both sides need certificates of one CA (engramctl certs show)"};
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
      return {StatusCode::kPeerLost,
              "the peer does not speak TLS: it runs without certificates, this side with"};
    default:
      return {StatusCode::kPeerLost, "TLS: " + error.message()};
  }
}

}  // namespace engram
