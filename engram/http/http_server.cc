#include "engram/http/http_server.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <spdlog/spdlog.h>

#include "engram/base/log_text.h"
#include "engram/base/tell_rate.h"
#include "engram/rpc/byte_stream.h"
#include "engram/rpc/host_port.h"
#include "engram/rpc/host_share.h"
#include "engram/security/peer_certificate.h"
#include "engram/security/permissions.h"

namespace engram {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;
using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr std::chrono::seconds kIoTimeout{30};  // for a peer to take a part of an answer
constexpr uint32_t kHeaderBytesMax = 16u << 10;
// Of a body that comes in chunks, and so does not say how much room it will need.
constexpr uint32_t kChunkedBytesMax = 1u << 20;
// In the logs, as RpcServer does.
constexpr uint32_t kRefusalsToldPerSecond = 20;

using TlsStream = beast::ssl_stream<beast::tcp_stream>;

struct Peer {
  std::string address;
  std::string host;
  std::optional<PeerCertificate> certificate = std::nullopt;  // none: it showed none with a role
};

template <typename Stream>
beast::tcp_stream& TcpOf(Stream& stream) {
  return beast::get_lowest_layer(stream);
}

// Answers one request on one connection. Owned by the connection's coroutine.
template <typename Stream>
class StreamResponder final : public HttpResponder {
 public:
  StreamResponder(Stream* stream, unsigned http_version, bool keep_alive)
      : stream_(stream), http_version_(http_version), keep_alive_(keep_alive) {}

  awaitable<Status> Respond(int status, std::string_view content_type, std::string body) override {
    answered_ = true;
    http::response<http::string_body> response{static_cast<http::status>(status), http_version_};
    SetHeaders(response, content_type);
    response.body() = std::move(body);
    response.prepare_payload();
    TcpOf(*stream_).expires_after(kIoTimeout);
    error_code error;
    co_await http::async_write(*stream_, response, redirect_error(use_awaitable, error));
    co_return Noted(error);
  }

  awaitable<Status> StartStream(int status, std::string_view content_type) override {
    answered_ = true;
    streaming_ = true;
    http::response<http::empty_body> response{static_cast<http::status>(status), http_version_};
    SetHeaders(response, content_type);
    response.chunked(true);
    http::response_serializer<http::empty_body> serializer{response};
    TcpOf(*stream_).expires_after(kIoTimeout);
    error_code error;
    co_await http::async_write_header(*stream_, serializer, redirect_error(use_awaitable, error));
    co_return Noted(error);
  }

  awaitable<Status> Write(std::string chunk) override {
    if (failed_) co_return GoneStatus();
    if (chunk.empty()) co_return Status();  // an empty chunk would end the stream
    TcpOf(*stream_).expires_after(kIoTimeout);
    error_code error;
    co_await boost::asio::async_write(
        *stream_, http::make_chunk(boost::asio::buffer(chunk.data(), chunk.size())),
        redirect_error(use_awaitable, error));
    co_return Noted(error);
  }

  awaitable<Status> EndStream() override {
    streaming_ = false;
    if (failed_) co_return GoneStatus();
    TcpOf(*stream_).expires_after(kIoTimeout);
    error_code error;
    co_await boost::asio::async_write(*stream_, http::make_chunk_last(),
                                      redirect_error(use_awaitable, error));
    co_return Noted(error);
  }

  void AddHeader(std::string_view name, std::string_view value) override {
    headers_.emplace_back(std::string(name), std::string(value));
  }

  bool PeerGone() override {
    if (failed_) return true;
    // Readable with no byte to read: the peer has closed. Bytes to read: its next request.
    tcp::socket& socket = TcpOf(*stream_).socket();
    char byte = 0;
    error_code error;
    const bool was_blocking = !socket.non_blocking();
    socket.non_blocking(true, error);
    socket.receive(boost::asio::buffer(&byte, 1), tcp::socket::message_peek, error);
    if (error == boost::asio::error::eof || (error && error != boost::asio::error::would_block)) {
      failed_ = true;
    }
    error_code ignored;
    if (was_blocking) socket.non_blocking(false, ignored);
    return failed_;
  }

  [[nodiscard]] bool answered() const { return answered_; }
  [[nodiscard]] bool usable() const { return !failed_ && !streaming_ && keep_alive_; }

 private:
  template <typename Response>
  void SetHeaders(Response& response, std::string_view content_type) {
    response.keep_alive(keep_alive_);
    response.set(http::field::server, "engram-pool");
    response.set(http::field::content_type,
                 beast::string_view(content_type.data(), content_type.size()));
    response.set(http::field::cache_control, "no-store");
    for (const auto& [name, value] : headers_) response.set(name, value);
  }

  static Status GoneStatus() { return Status(StatusCode::kPeerLost, "the HTTP client has gone"); }

  Status Noted(const error_code& error) {
    if (!error) return Status();
    failed_ = true;
    return GoneStatus();
  }

  Stream* stream_;
  const unsigned http_version_;
  const bool keep_alive_;
  bool answered_ = false;
  bool streaming_ = false;
  bool failed_ = false;
  std::vector<std::pair<std::string, std::string>> headers_;
};

// Who asks for what; the body comes later.
HttpRequest ToRequest(const http::request<http::empty_body>& message, const Peer& peer) {
  HttpRequest request;
  request.method = std::string(message.method_string());
  const std::string target(message.target());
  const size_t mark = target.find('?');
  request.path = target.substr(0, mark);
  if (mark != std::string::npos) request.query = target.substr(mark + 1);
  request.peer = peer.address;
  if (peer.certificate.has_value()) request.identity = peer.certificate->identity();
  return request;
}

// And the room that it takes of all bodies' while it is there.
struct Body {
  std::string text;
  std::unique_ptr<HostCounts::Share> share;
};

// What connections share; kept by their coroutines.
struct ServerState : std::enable_shared_from_this<ServerState> {
  ServerState(boost::asio::any_io_executor executor_in, HttpServer::Options options_in,
              HttpServer::Handler handler_in, tcp::acceptor acceptor_in)
      : executor(std::move(executor_in)),
        options(std::move(options_in)),
        handler(std::move(handler_in)),
        acceptor(std::move(acceptor_in)) {}

  awaitable<void> Accept();
  awaitable<void> Start(tcp::socket socket);
  awaitable<void> StartTls(tcp::socket socket, Peer peer);
  template <typename Stream>
  awaitable<void> Serve(Stream& stream, Peer peer);
  // Answers one request, who shows no certificate.
  template <typename Stream>
  awaitable<void> ServeStranger(Stream& stream, Peer peer);
  // False: the connection ends.
  template <typename Stream>
  awaitable<bool> ServeOne(Stream& stream, beast::flat_buffer& buffer, Peer& peer);
  // Takes the header's body. False: an answer says why not, and the connection ends.
  template <typename Stream>
  awaitable<bool> ReadBody(Stream& stream, beast::flat_buffer& buffer, const Peer& peer,
                           http::request_parser<http::empty_body>&& header, Body* body);
  // What is asked is not for this peer. Told in the logs.
  [[nodiscard]] Status CheckRequest(const HttpRequest& request, Peer& peer);

  const boost::asio::any_io_executor executor;
  const HttpServer::Options options;
  const HttpServer::Handler handler;
  tcp::acceptor acceptor;
  bool stopped = false;
  std::unordered_set<beast::tcp_stream*> connections;  // their coroutines own them
  HostQueue greeting;  // in their handshakes; their coroutines own them
  HostQueue strangers;
  const std::shared_ptr<HostCounts> open_by_host = std::make_shared<HostCounts>();
  const std::shared_ptr<HostCounts> body_bytes_by_host = std::make_shared<HostCounts>();
  TellRate refusals{kRefusalsToldPerSecond};
};

awaitable<void> ServerState::Accept() {
  const auto self = shared_from_this();
  while (!stopped) {
    error_code error;
    tcp::socket socket = co_await acceptor.async_accept(redirect_error(use_awaitable, error));
    if (stopped || error == boost::asio::error::operation_aborted) co_return;
    if (error) {
      spdlog::warn("cannot accept an HTTP connection: {}", error.message());
      boost::asio::steady_timer pause(executor, std::chrono::milliseconds(100));
      co_await pause.async_wait(redirect_error(use_awaitable, error));
      continue;
    }
    SetConnectionOptions(socket);
    boost::asio::co_spawn(executor, Start(std::move(socket)), boost::asio::detached);
  }
}

// Takes a stream out of its queue, whichever way its coroutine ends.
class Queued {
 public:
  Queued(HostQueue* queue, const std::string& host, beast::tcp_stream* stream)
      : queue_(queue), number_(queue->Add(host, [stream] { stream->close(); })) {}
  ~Queued() { queue_->Remove(number_); }
  Queued(const Queued&) = delete;
  Queued& operator=(const Queued&) = delete;

 private:
  HostQueue* const queue_;
  const uint64_t number_;
};

awaitable<void> ServerState::Start(tcp::socket socket) {
  const auto self = shared_from_this();
  error_code error;
  const auto endpoint = socket.remote_endpoint(error);
  Peer peer;
  peer.address = error ? "unknown" : EndpointText(endpoint);
  peer.host = error ? "" : endpoint.address().to_string();
  if (options.security.identity != nullptr) {
    co_await StartTls(std::move(socket), std::move(peer));
    co_return;
  }
  beast::tcp_stream stream(std::move(socket));
  co_await Serve(stream, std::move(peer));
}

awaitable<void> ServerState::StartTls(tcp::socket socket, Peer peer) {
  const auto context = options.security.identity->Context();
  TlsStream stream(std::move(socket), *context);
  // A certificate that is shown must be right; none is for the paths that are open.
  stream.set_verify_mode(boost::asio::ssl::verify_peer);
  error_code error;
  {
    // Whoever only begins must not keep others out.
    if (greeting.size() >= options.connections_max) greeting.CloseOne();
    const Queued waits(&greeting, peer.host, &TcpOf(stream));
    TcpOf(stream).expires_after(options.request_timeout);
    co_await stream.async_handshake(boost::asio::ssl::stream_base::server,
                                    redirect_error(use_awaitable, error));
  }
  if (stopped) co_return;
  if (error) {
    if (refusals.Tell(SteadyClock().Now()).has_value()) {
      spdlog::info("refused the HTTPS connection of {}: {}", peer.address,
                   TlsFailure(error).message());
    }
    co_return;
  }
  auto certificate = PeerCertificate::Of(stream.native_handle(), context);
  if (certificate.has_value()) {
    peer.certificate = *std::move(certificate);
    co_await Serve(stream, std::move(peer));
  } else {
    co_await ServeStranger(stream, std::move(peer));
  }
}

Status ServerState::CheckRequest(const HttpRequest& request, Peer& peer) {
  if (options.security.identity == nullptr) return {};
  Status status;
  if (peer.certificate.has_value()) {
    status = peer.certificate->Check(*options.security.identity);
  } else if (!PathIsOpen(request.path)) {
    status = Status(StatusCode::kPermissionDenied,
                    "show a certificate of this cluster's CA (curl --cert tls.crt --key tls.key "
                    "--cacert ca.crt); without one only /healthz and /readyz are answered");
  }
  if (status.ok() || !refusals.Tell(SteadyClock().Now()).has_value()) return status;
  const std::string what = request.method + " " + request.path;
  spdlog::info("refused {} to {}: {}", LogText(what), request.peer,
               request.identity == nullptr ? "no certificate" : status.message());
  if (options.audit != nullptr) {
    options.audit->Write({request.identity.get(), request.peer, what, {}, status});
  }
  return status;
}

template <typename Stream>
awaitable<bool> ServerState::ReadBody(Stream& stream, beast::flat_buffer& buffer, const Peer& peer,
                                      http::request_parser<http::empty_body>&& header, Body* body) {
  const bool chunked = header.chunked();
  const uint64_t bytes_max =
      std::min<uint64_t>(options.body_bytes_max, chunked ? kChunkedBytesMax : UINT64_MAX);
  const uint64_t bytes = chunked ? bytes_max : header.content_length().value_or(uint64_t{0});
  if (bytes == 0) co_return true;
  StreamResponder responder(&stream, 11, false);
  const std::string too_long =
      "the body is longer than " + std::to_string(bytes_max) + " bytes" +
      (bytes_max < options.body_bytes_max ? ": send Content-Length\n" : "\n");
  if (bytes > bytes_max) {
    (void)co_await responder.Respond(413, "text/plain", too_long);
    co_return false;
  }
  if (!IsFree(body_bytes_by_host->of(peer.host), bytes, body_bytes_by_host->all(),
              options.bodies_bytes_max)) {
    responder.AddHeader("Retry-After", "1");
    (void)co_await responder.Respond(503, "text/plain", "too many long bodies: try again\n");
    co_return false;
  }
  auto share = std::make_unique<HostCounts::Share>(body_bytes_by_host, peer.host, bytes);
  http::request_parser<http::string_body> parser(std::move(header));
  parser.body_limit(bytes_max);
  error_code error;
  co_await http::async_read(stream, buffer, parser, redirect_error(use_awaitable, error));
  if (error == http::error::body_limit) {
    (void)co_await responder.Respond(413, "text/plain", too_long);
  }
  if (error) co_return false;
  body->text = std::move(parser.get().body());
  // Chunks may have been fewer.
  share.reset();
  body->share =
      std::make_unique<HostCounts::Share>(body_bytes_by_host, peer.host, body->text.capacity());
  co_return true;
}

template <typename Stream>
awaitable<bool> ServerState::ServeOne(Stream& stream, beast::flat_buffer& buffer, Peer& peer) {
  http::request_parser<http::empty_body> parser;
  parser.header_limit(kHeaderBytesMax);
  parser.body_limit(boost::none);  // of the header's word: ReadBody looks at it
  TcpOf(stream).expires_after(options.request_timeout);
  error_code error;
  co_await http::async_read_header(stream, buffer, parser, redirect_error(use_awaitable, error));
  if (error) {
    if (error != http::error::end_of_stream && error != beast::error::timeout &&
        parser.get().method() == http::verb::unknown && buffer.size() > 0) {
      StreamResponder responder(&stream, 11, false);
      (void)co_await responder.Respond(400, "text/plain", "not an HTTP request\n");
    }
    co_return false;
  }
  const unsigned version = parser.get().version();
  const bool keep_alive = parser.get().keep_alive() &&
                          (options.security.identity == nullptr || peer.certificate.has_value());
  HttpRequest request = ToRequest(parser.get(), peer);
  if (const Status status = CheckRequest(request, peer); !status.ok()) {
    StreamResponder responder(&stream, version, false);  // its body is not read
    std::string why = status.message() + "\n";
    (void)co_await responder.Respond(403, "text/plain", std::move(why));
    co_return false;
  }
  Body body;
  // Who shows no certificate says nothing that needs a body.
  if (options.security.identity == nullptr || peer.certificate.has_value()) {
    const bool whole = co_await ReadBody(stream, buffer, peer, std::move(parser), &body);
    if (!whole) co_return false;
  }
  request.body = std::move(body.text);
  StreamResponder responder(&stream, version, keep_alive);
  TcpOf(stream).expires_never();  // the handler may compute for long
  std::string failure;
  try {
    co_await handler(request, responder);
  } catch (const std::exception& exception) {
    failure = exception.what();
  }
  if (!failure.empty()) {
    spdlog::error("{} {} threw: {}", request.method, LogText(request.path), failure);
    if (responder.answered()) co_return false;
    (void)co_await responder.Respond(500, "text/plain", "a bug in the server: see its log\n");
  } else if (!responder.answered()) {
    (void)co_await responder.Respond(404, "text/plain",
                                     "there is nothing at " + request.path + "\n");
  }
  co_return responder.usable();
}

// Ends a connection whose peer may not have read all that was written.
void End(beast::tcp_stream& stream) {
  error_code ignored;
  stream.socket().shutdown(tcp::socket::shutdown_both, ignored);
  stream.close();
}

template <typename Stream>
awaitable<void> ServerState::Serve(Stream& stream, Peer peer) {
  if (!IsFree(open_by_host->of(peer.host), 1, open_by_host->all(), options.connections_max)) {
    StreamResponder responder(&stream, 11, false);
    responder.AddHeader("Retry-After", "1");
    (void)co_await responder.Respond(503, "text/plain", "too many connections: try again\n");
    co_return;
  }
  const HostCounts::Share share(open_by_host, peer.host);
  connections.insert(&TcpOf(stream));
  beast::flat_buffer buffer;
  while (!stopped && co_await ServeOne(stream, buffer, peer)) {
  }
  connections.erase(&TcpOf(stream));
  End(TcpOf(stream));
}

template <typename Stream>
awaitable<void> ServerState::ServeStranger(Stream& stream, Peer peer) {
  if (strangers.size() >= options.strangers_max) strangers.CloseOne();
  const Queued waits(&strangers, peer.host, &TcpOf(stream));
  beast::flat_buffer buffer;
  (void)co_await ServeOne(stream, buffer, peer);
  End(TcpOf(stream));
}

class BeastHttpServer final : public HttpServer {
 public:
  explicit BeastHttpServer(std::shared_ptr<ServerState> state) : state_(std::move(state)) {
    error_code ignored;
    address_ = EndpointText(state_->acceptor.local_endpoint(ignored));
    boost::asio::co_spawn(state_->executor, state_->Accept(), boost::asio::detached);
  }
  ~BeastHttpServer() override {
    state_->stopped = true;
    error_code ignored;
    state_->acceptor.close(ignored);
    for (beast::tcp_stream* stream : state_->connections) stream->close();
    state_->greeting.CloseAll();
    state_->strangers.CloseAll();
  }
  [[nodiscard]] std::string address() const override { return address_; }

 private:
  const std::shared_ptr<ServerState> state_;
  std::string address_;
};

}  // namespace

Result<std::unique_ptr<HttpServer>> HttpServer::Create(boost::asio::any_io_executor executor,
                                                       const Options& options, Handler handler) {
  ENGRAM_ASSIGN_OR_RETURN(tcp::acceptor acceptor, Listen(executor, options.listen_address));
  ENGRAM_TRY(CheckListening(options.security, acceptor, options.listen_address));
  auto state = std::make_shared<ServerState>(std::move(executor), options, std::move(handler),
                                             std::move(acceptor));
  return std::make_unique<BeastHttpServer>(std::move(state));
}

}  // namespace engram
