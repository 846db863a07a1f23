#include "coordinator/etcd_connection.h"

#include <algorithm>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http.hpp>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include "engram/rpc/host_lookup.h"
#include "engram/security/certificates.h"

namespace engram {
namespace {

namespace http = boost::beast::http;
using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr const char* kNoTls =
    "it does not speak TLS: start etcd with --cert-file, --key-file, --client-cert-auth and "
    "--trusted-ca-file, or write http:// into --store and leave --etcd-certs out";

bool IsTlsError(const error_code& error) {
  return error.category() == boost::asio::error::get_ssl_category();
}

Status PlainRefused(const std::string& endpoint, const tcp::resolver::results_type& found) {
  const bool is_loopback = std::all_of(found.begin(), found.end(), [](const auto& entry) {
    return entry.endpoint().address().is_loopback();
  });
  if (is_loopback) return Status();
  return {StatusCode::kInvalidArgument,
          "--store: etcd at " + endpoint +
              " is not on loopback, and without TLS whoever is on the way there could change this "
              "cluster: write https://" +
              endpoint +
              " and give --etcd-certs FOLDER, or --insecure to do without on a network that you "
              "trust"};
}

// What its certificate must be for. Nobody's common name counts as a host.
bool RequireHost(SSL* ssl, const std::string& host) {
  X509_VERIFY_PARAM* const wanted = SSL_get0_param(ssl);
  X509_VERIFY_PARAM_set_hostflags(
      wanted, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT);
  error_code no_number;
  (void)boost::asio::ip::make_address(host, no_number);
  if (!no_number) return X509_VERIFY_PARAM_set1_ip_asc(wanted, host.c_str()) == 1;
  return X509_VERIFY_PARAM_set1_host(wanted, host.c_str(), host.size()) == 1 &&
         SSL_set_tlsext_host_name(ssl, host.c_str()) == 1;
}

// The hosts of a certificate that did not fit. After such a handshake OpenSSL has no peer's
// certificate, but this is called from within it.
std::string HostsText(X509* shown) {
  X509_up_ref(shown);
  const auto certificate = Certificate::FromX509(shown, "etcd's certificate");
  std::string text;
  if (certificate.has_value()) {
    for (const std::string& host : certificate->info().hosts) {
      text += (text.empty() ? "" : ", ") + host;
    }
  }
  return text.empty() ? "no host" : text;
}

std::string VerifyFailure(int64_t reason, const std::string& host, const std::string& hosts) {
  switch (reason) {
    case X509_V_ERR_HOSTNAME_MISMATCH:
    case X509_V_ERR_IP_ADDRESS_MISMATCH:
      return "its certificate is for " + hosts + ", not for " + host +
             ": write a name that it has into --store, or give etcd a certificate for this one "
             "(engramctl certs issue --host)";
    case X509_V_ERR_CERT_HAS_EXPIRED:
      return "its certificate has expired: give etcd a new one";
    default:
      return "its certificate is not of a CA in the ca.crt of --etcd-certs (" +
             std::string(X509_verify_cert_error_string(reason)) +
             "): is it etcd, and the right ca.crt?";
  }
}

// An error of TLS that is not about the other's certificate.
std::string TlsErrorText(const error_code& error) {
  const int reason = ERR_GET_REASON(static_cast<unsigned>(error.value()));
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_HTTP_REQUEST) {
    return kNoTls;
  }
  if (reason == SSL_R_TLSV1_ALERT_PROTOCOL_VERSION || reason == SSL_R_UNSUPPORTED_PROTOCOL) {
    return "it does not speak TLS 1.3: use etcd 3.4 or later";
  }
  if (reason >= SSL_AD_REASON_OFFSET) {  // told by the other
    return "it refused the certificate of --etcd-certs (" + error.message() +
           "): it must be valid, for a client, and of the CA that etcd has as --trusted-ca-file";
  }
  return "TLS: " + error.message();
}

}  // namespace

Status CheckPlainEtcd(const std::string& endpoint) {
  const auto address = ParseHostPort(endpoint);
  if (!address.has_value()) return address.error();
  boost::asio::io_context io;
  tcp::resolver resolver(io);
  error_code error;
  const auto found = resolver.resolve(address->host, std::to_string(address->port), error);
  return error ? Status() : PlainRefused(endpoint, found);
}

EtcdConnection::EtcdConnection(Options options)
    : options_(std::move(options)),
      address_(ParseHostPort(options_.endpoint).value()),
      stream_(boost::beast::tcp_stream(io_)) {
  if (options_.identity == nullptr) return;
  Tls tls;
  tls.context = options_.identity->Context();
  tls.stream = std::make_unique<TlsStream>(std::move(std::get<boost::beast::tcp_stream>(stream_)),
                                           *tls.context);
  stream_ = std::move(tls);
}

bool EtcdConnection::outdated() const {
  const auto* const tls = std::get_if<Tls>(&stream_);
  return tls != nullptr && options_.identity->Context() != tls->context;
}

boost::beast::tcp_stream& EtcdConnection::tcp() {
  if (auto* const plain = std::get_if<boost::beast::tcp_stream>(&stream_)) return *plain;
  return boost::beast::get_lowest_layer(*std::get<Tls>(stream_).stream);
}

EtcdConnection::Reply EtcdConnection::Post(std::string_view path, const std::string& body,
                                           MonotonicTime until) {
  Reply reply;
  boost::asio::co_spawn(io_, Exchange(path, body, until, &reply), boost::asio::detached);
  io_.restart();
  io_.run();
  reply.timed_out = timed_out_;
  return reply;
}

Status EtcdConnection::Failed(const error_code& error) {
  timed_out_ = error == boost::beast::error::timeout;
  if (timed_out_) {
    return {StatusCode::kUnavailable, connected_ ? "no answer in time" : "no connection in time"};
  }
  return {StatusCode::kUnavailable, IsTlsError(error) ? TlsErrorText(error) : error.message()};
}

awaitable<void> EtcdConnection::Exchange(std::string_view path, const std::string& body,
                                         MonotonicTime until, Reply* reply) {
  tcp().expires_at(until);
  if (!connected_) {
    reply->failure = co_await Connect(until);
    if (!reply->failure.ok()) co_return;
    connected_ = true;
  }
  if (auto* const plain = std::get_if<boost::beast::tcp_stream>(&stream_)) {
    reply->failure = co_await Ask(*plain, path, body, reply);
  } else {
    reply->failure = co_await Ask(*std::get<Tls>(stream_).stream, path, body, reply);
  }
}

awaitable<Status> EtcdConnection::Connect(MonotonicTime until) {
  const auto found = co_await LookUpHost(io_.get_executor(), address_, until);
  if (!found.has_value()) {
    timed_out_ = found.error().code() == StatusCode::kDeadlineExceeded;
    co_return Status(StatusCode::kUnavailable, found.error().message());
  }
  if (options_.identity == nullptr && !options_.insecure) {
    const Status refused = PlainRefused(options_.endpoint, *found);
    if (!refused.ok()) co_return refused;
  }
  error_code error;
  co_await tcp().async_connect(*found, redirect_error(use_awaitable, error));
  if (error) co_return Failed(error);
  SetConnectionOptions(tcp().socket());
  const Status shaken = co_await Handshake();
  co_return shaken;
}

awaitable<Status> EtcdConnection::Handshake() {
  auto* const tls = std::get_if<Tls>(&stream_);
  if (tls == nullptr) co_return Status();
  SSL* const ssl = tls->stream->native_handle();
  if (!RequireHost(ssl, address_.host)) {
    co_return Status(StatusCode::kUnavailable, "OpenSSL takes no host name " + address_.host);
  }
  std::string hosts;
  tls->stream->set_verify_callback([&hosts](bool good, boost::asio::ssl::verify_context& context) {
    X509_STORE_CTX* const store = context.native_handle();
    if (!good && X509_STORE_CTX_get_error_depth(store) == 0) {
      hosts = HostsText(X509_STORE_CTX_get_current_cert(store));
    }
    return good;
  });
  error_code error;
  co_await tls->stream->async_handshake(boost::asio::ssl::stream_base::client,
                                        redirect_error(use_awaitable, error));
  // No later handshake is made on it; the callback's text ends here.
  tls->stream->set_verify_callback(
      [](bool good, boost::asio::ssl::verify_context&) { return good; });
  if (!error) co_return Status();
  const int64_t verified = SSL_get_verify_result(ssl);
  if (IsTlsError(error) && verified != X509_V_OK) {
    co_return Status(StatusCode::kUnavailable, VerifyFailure(verified, address_.host, hosts));
  }
  // What an etcd without TLS does; a reset where it had not read all that came.
  if (error == boost::asio::ssl::error::stream_truncated || error == boost::asio::error::eof ||
      error == boost::asio::error::connection_reset) {
    co_return Status(StatusCode::kUnavailable, kNoTls);
  }
  co_return Failed(error);
}

template <typename Stream>
awaitable<Status> EtcdConnection::Ask(Stream& stream, std::string_view path,
                                      const std::string& body, Reply* reply) {
  http::request<http::string_body> request{http::verb::post, {path.data(), path.size()}, 11};
  request.set(http::field::host, options_.endpoint);
  request.set(http::field::content_type, "application/json");
  request.body() = body;
  request.prepare_payload();
  error_code written;
  co_await http::async_write(stream, request, redirect_error(use_awaitable, written));
  if (written == boost::beast::error::timeout) co_return Failed(written);
  // In TLS 1.3 the other looks at our certificate after our handshake is over: where it closed the
  // connection, what it said is still to be read.
  http::response_parser<http::string_body> parser;
  parser.body_limit(options_.reply_bytes_max);
  error_code read;
  co_await http::async_read(stream, buffer_, parser, redirect_error(use_awaitable, read));
  if (read && IsTlsError(read)) co_return Failed(read);
  if (written) co_return Failed(written);
  if (read == http::error::end_of_stream && options_.identity == nullptr) {
    co_return Status(StatusCode::kUnavailable,
                     "it closed the connection without an answer: if it speaks TLS only, write "
                     "https:// into --store and give --etcd-certs FOLDER");
  }
  if (read) co_return Failed(read);
  reply->status = parser.get().result_int();
  reply->keep_alive = parser.get().keep_alive();
  reply->body = std::move(parser.get().body());
  co_return Status();
}

}  // namespace engram
