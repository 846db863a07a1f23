// A page of a process's HTTP port, for health checks where there is no curl: in containers.
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "engram/rpc/byte_stream.h"
#include "engram/rpc/host_port.h"
#include "tools/command.h"

namespace engram {
namespace {

namespace http = boost::beast::http;
using boost::asio::awaitable;
using boost::asio::redirect_error;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;
using boost::system::error_code;

constexpr size_t kPageBytesMax = 64u << 20;

struct Options {
  std::string address;
  std::string path = "/readyz";
  double timeout_s = 5;
  SecurityFlags security;
};

struct Page {
  unsigned status = 0;
  std::string body;
};

awaitable<Result<Page>> Fetch(const Options& options, ChannelSecurity security) {
  const auto target = ParseHostPort(options.address);
  if (!target.has_value()) co_return tl::unexpected(target.error());
  const auto executor = co_await boost::asio::this_coro::executor;
  error_code error;
  tcp::resolver resolver(executor);
  const auto endpoints = co_await resolver.async_resolve(target->host, std::to_string(target->port),
                                                         redirect_error(use_awaitable, error));
  if (error) co_return Error(StatusCode::kIo, "no host " + target->host + ": " + error.message());
  for (const auto& endpoint : endpoints) {
    const Status allowed =
        security.CheckAddress(endpoint.endpoint().address().is_loopback(), options.address);
    if (!allowed.ok()) co_return tl::unexpected(allowed);
  }
  tcp::socket socket(executor);
  co_await boost::asio::async_connect(socket, endpoints, redirect_error(use_awaitable, error));
  if (error) {
    co_return Error(StatusCode::kPeerLost, "nothing answers at " + options.address + " (" +
                                               error.message() + "): is it the process's --http?");
  }
  ByteStream stream(std::move(socket), security.identity);
  const Status met =
      co_await stream.Handshake(ByteStream::Side::kClient, std::chrono::milliseconds(10000));
  if (!met.ok()) co_return tl::unexpected(met);
  const std::string request = "GET " + options.path + " HTTP/1.1\r\nHost: " + options.address +
                              "\r\nConnection: close\r\n\r\n";
  for (size_t sent = 0; sent < request.size();) {
    sent += co_await stream.WriteSome(
        boost::asio::buffer(request.data() + sent, request.size() - sent), &error);
    if (error) co_return Error(StatusCode::kPeerLost, options.address + ": " + error.message());
  }
  http::response_parser<http::string_body> parser;
  parser.body_limit(kPageBytesMax);
  parser.eager(true);
  std::string unread;
  while (!parser.is_done()) {
    const size_t before = unread.size();
    unread.resize(before + 65536);
    const size_t count = co_await stream.ReadSome(
        boost::asio::buffer(unread.data() + before, unread.size() - before), &error);
    unread.resize(before + count);
    error_code malformed;
    if (count > 0) {
      unread.erase(0, parser.put(boost::asio::buffer(unread), malformed));
    } else if (error == boost::asio::error::eof && parser.got_some()) {
      parser.put_eof(malformed);
    }
    if (malformed == http::error::need_more) malformed = {};
    if (malformed) {
      co_return Error(StatusCode::kMalformed, options.address + " does not answer in HTTP (" +
                                                  malformed.message() +
                                                  "): is it the process's --http, and does it run "
                                                  "with certificates as this side does not?");
    }
    if (error && !parser.is_done()) {
      co_return Error(StatusCode::kPeerLost,
                      options.address + " ended the connection before it answered (" +
                          error.message() + "): does it run with certificates (--certs)?");
    }
  }
  co_return Page{parser.get().result_int(), std::move(parser.get().body())};
}

Status Run(const Options& options, const CommandLine& line) {
  const auto security = OpenSecurity(options.security);
  if (!security.has_value()) return security.error();
  boost::asio::io_context io;
  std::optional<Result<Page>> page;
  boost::asio::co_spawn(io, Fetch(options, *security),
                        [&page](const std::exception_ptr& failure, Result<Page> fetched) {
                          if (failure) std::rethrow_exception(failure);
                          page = std::move(fetched);
                        });
  io.run_for(std::chrono::milliseconds(static_cast<int64_t>(options.timeout_s * 1000)));
  if (!page.has_value()) {
    return {StatusCode::kDeadlineExceeded,
            options.address + " did not answer within " + std::to_string(options.timeout_s) + " s"};
  }
  if (!page->has_value()) return page->error();
  const Page& got = **page;
  if (line.json) {
    ENGRAM_RETURN_IF_ERROR(PrintJson({{"status", got.status}, {"body", got.body}}));
  } else {
    const bool ended = got.body.empty() || got.body.back() == '\n';
    ENGRAM_RETURN_IF_ERROR(Print(ended ? got.body : got.body + "\n"));
  }
  if (got.status == 200) return {};
  return {StatusCode::kUnavailable,
          options.address + options.path + " answered " + std::to_string(got.status)};
}

}  // namespace

void AddProbeCommand(CLI::App& app, CommandLine& line) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("probe", "Get a page of a process's --http address: is it ready?");
  command->footer(
      "For health checks of containers and units: 0 where the answer is 200, else 1. Beside "
      "/readyz\n"
      "there are /healthz and /metrics, and a coordinator's /status.\n"
      "  engramctl probe 127.0.0.1:7101 && echo every assigned slot is loaded\n"
      "  engramctl probe 127.0.0.1:7101 --path /metrics");
  command->add_option("address", options->address, "The process's --http")
      ->required()
      ->type_name("HOST:PORT");
  command->add_option("--path", options->path, "The page")
      ->capture_default_str()
      ->check([](const std::string& path) {
        const bool fits = path.starts_with("/") && path.find_first_of(" \r\n") == path.npos;
        return fits ? std::string() : "a path starts with / and has no spaces, such as /healthz";
      });
  command->add_option("--timeout-s", options->timeout_s, "Give up after so many seconds")
      ->check(CLI::Range(0.001, 3600.0))
      ->capture_default_str();
  AddSecurityFlags(command, &options->security);
  command->callback(
      [options, &line] { line.run = [options, &line] { return Run(*options, line); }; });
}

}  // namespace engram
