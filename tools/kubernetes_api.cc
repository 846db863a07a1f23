#include "tools/kubernetes_api.h"

#include <fstream>
#include <iterator>
#include <optional>
#include <utility>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <boost/beast/http/write.hpp>

namespace engram {
namespace {

namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kBodyBytesMax = 16u << 20;

Result<std::string> ReadLine(const std::filesystem::path& file) {
  std::ifstream in(file);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  if (in.is_open() && !in.bad() && !text.empty()) return text;
  return Error(StatusCode::kIo,
               "cannot read " + file.string() +
                   ": is it mounted (a service account's token, ca.crt and namespace)?");
}

std::string AddressOf(const KubernetesApi& api) {
  const bool v6 = api.host.find(':') != std::string::npos;
  return (v6 ? "[" + api.host + "]" : api.host) + ":" + std::to_string(api.port);
}

// `request` outlives it, `context` too.
awaitable<Result<KubernetesReply>> Exchange(const KubernetesApi& api, ssl::context& context,
                                            http::request<http::string_body>& request) {
  const std::string address = AddressOf(api);
  const auto away = [&address](const error_code& error) {
    return Error(StatusCode::kUnavailable,
                 "the API server at " + address + " does not answer: " + error.message());
  };
  const auto executor = co_await boost::asio::this_coro::executor;
  error_code error;
  tcp::resolver resolver(executor);
  const auto endpoints = co_await resolver.async_resolve(api.host, std::to_string(api.port),
                                                         redirect_error(use_awaitable, error));
  if (error) co_return away(error);
  ssl::stream<tcp::socket> stream(executor, context);
  co_await boost::asio::async_connect(stream.next_layer(), endpoints,
                                      redirect_error(use_awaitable, error));
  if (error) co_return away(error);
  SSL_set_tlsext_host_name(stream.native_handle(), api.host.c_str());
  stream.set_verify_callback(ssl::host_name_verification(api.host), error);
  if (error) co_return away(error);
  co_await stream.async_handshake(ssl::stream_base::client, redirect_error(use_awaitable, error));
  if (error && SSL_get_verify_result(stream.native_handle()) != X509_V_OK) {
    co_return Error(StatusCode::kPermissionDenied,
                    "the API server at " + address + " has a certificate that is not of " +
                        (api.account / "ca.crt").string() + " or not for " + api.host);
  }
  if (error) co_return away(error);
  co_await http::async_write(stream, request, redirect_error(use_awaitable, error));
  if (error) co_return away(error);
  boost::beast::flat_buffer buffer;
  http::response_parser<http::string_body> parser;
  parser.body_limit(kBodyBytesMax);
  co_await http::async_read(stream, buffer, parser, redirect_error(use_awaitable, error));
  if (error) co_return away(error);
  KubernetesReply reply;
  reply.status = parser.get().result_int();
  reply.body = nlohmann::json::parse(parser.get().body(), nullptr, /*allow_exceptions=*/false);
  if (reply.body.is_discarded()) reply.body = nullptr;
  co_return reply;
}

}  // namespace

std::string KubernetesReply::Message() const {
  return body.is_object() && body.contains("message") && body["message"].is_string()
             ? body["message"].get<std::string>()
             : "";
}

Result<std::string> NamespaceOf(const KubernetesApi& api) {
  return ReadLine(api.account / "namespace");
}

Result<KubernetesReply> CallKubernetes(const KubernetesApi& api, const std::string& method,
                                       const std::string& path, const nlohmann::json& body) {
  ENGRAM_ASSIGN_OR_RETURN(const std::string token, ReadLine(api.account / "token"));
  ssl::context context(ssl::context::tls_client);
  (void)SSL_CTX_set_min_proto_version(context.native_handle(), TLS1_2_VERSION);
  error_code error;
  const std::string authority = (api.account / "ca.crt").string();
  context.load_verify_file(authority, error);
  if (error) {
    return Error(StatusCode::kIo, "cannot read " + authority + ": " + error.message() +
                                      ": is it mounted, and a certificate?");
  }
  context.set_verify_mode(ssl::verify_peer, error);
  http::request<http::string_body> request(http::string_to_verb(method), path, 11);
  request.set(http::field::host, AddressOf(api));
  request.set(http::field::authorization, "Bearer " + token);
  request.set(http::field::accept, "application/json");
  request.set(http::field::connection, "close");
  if (!body.is_null()) {
    request.set(http::field::content_type, "application/json");
    request.body() = body.dump();
  }
  request.prepare_payload();

  boost::asio::io_context io;
  std::optional<Result<KubernetesReply>> reply;
  boost::asio::co_spawn(
      io, Exchange(api, context, request),
      [&reply](const std::exception_ptr& failure, Result<KubernetesReply> answered) {
        if (failure) std::rethrow_exception(failure);
        reply = std::move(answered);
      });
  io.run_for(api.timeout);
  if (reply.has_value()) return *std::move(reply);
  return Error(StatusCode::kDeadlineExceeded, "the API server at " + AddressOf(api) +
                                                  " did not answer within " +
                                                  std::to_string(api.timeout.count()) + " ms");
}

}  // namespace engram
