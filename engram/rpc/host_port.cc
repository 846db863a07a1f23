#include "engram/rpc/host_port.h"

#include <algorithm>
#include <charconv>

#include <boost/asio/ip/address.hpp>
#include <boost/asio/socket_base.hpp>
#include <netinet/tcp.h>

namespace engram {
namespace {

using boost::asio::ip::tcp;

Status ListenError(std::string_view address, const boost::system::error_code& error) {
  std::string message = "cannot listen on " + std::string(address) + ": " + error.message();
  if (error == boost::asio::error::address_in_use) {
    message += "; stop the program that has this port, or choose another (port 0 = any free one)";
  } else if (error == boost::asio::error::access_denied) {
    message +=
        "; a port from 1024 on needs no privilege, and programs give theirs up: choose one, or "
        "lower net.ipv4.ip_unprivileged_port_start";
  }
  return Status(StatusCode::kIo, std::move(message));
}

Result<tcp::endpoint> ResolveToListen(const boost::asio::any_io_executor& executor,
                                      const HostPort& host_port, std::string_view address) {
  boost::system::error_code error;
  const auto numeric = boost::asio::ip::make_address(host_port.host, error);
  if (!error) return tcp::endpoint(numeric, host_port.port);
  tcp::resolver resolver(executor);
  const auto found = resolver.resolve(host_port.host, std::to_string(host_port.port),
                                      tcp::resolver::passive, error);
  if (error || found.empty()) {
    return Error(StatusCode::kIo, "cannot listen on " + std::string(address) + ": the name '" +
                                      host_port.host + "' is not known: " + error.message());
  }
  return found.begin()->endpoint();
}

}  // namespace

Result<HostPort> ParseHostPort(std::string_view text) {
  const auto bad = [&] {
    return Error(StatusCode::kInvalidArgument, "'" + std::string(text) +
                                                   "' is not an address: write host:port, such as "
                                                   "127.0.0.1:7000 or [::1]:7000");
  };
  const size_t colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return bad();
  std::string_view host = text.substr(0, colon);
  if (host.front() == '[') {
    if (host.size() < 3 || host.back() != ']') return bad();
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return bad();
  }
  const std::string_view digits = text.substr(colon + 1);
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (digits.empty() || error != std::errc() || end != digits.data() + digits.size()) return bad();
  return HostPort{std::string(host), port};
}

std::vector<std::string> SplitAddresses(std::string_view list) {
  std::vector<std::string> parts;
  while (!list.empty()) {
    const size_t end = std::min(list.find(','), list.size());
    if (end > 0) parts.emplace_back(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
  }
  return parts;
}

Result<std::vector<std::string>> ParseAddresses(std::string_view list) {
  std::vector<std::string> parts = SplitAddresses(list);
  if (parts.empty()) {
    return Error(StatusCode::kInvalidArgument,
                 "no address: write host:port, or several with commas between");
  }
  for (const std::string& part : parts) {
    if (const auto parsed = ParseHostPort(part); !parsed.has_value()) return Error(parsed.error());
  }
  return parts;
}

std::string EndpointText(const tcp::endpoint& endpoint) {
  const std::string port = std::to_string(endpoint.port());
  if (endpoint.address().is_v6()) return "[" + endpoint.address().to_string() + "]:" + port;
  return endpoint.address().to_string() + ":" + port;
}

Result<tcp::acceptor> Listen(const boost::asio::any_io_executor& executor,
                             std::string_view address) {
  ENGRAM_ASSIGN_OR_RETURN(const HostPort host_port, ParseHostPort(address));
  ENGRAM_ASSIGN_OR_RETURN(const tcp::endpoint endpoint,
                          ResolveToListen(executor, host_port, address));
  boost::system::error_code error;
  tcp::acceptor acceptor(executor);
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(boost::asio::socket_base::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(boost::asio::socket_base::max_listen_connections, error);
  if (error) return Error(ListenError(address, error));
  return acceptor;
}

Status CheckListening(const ChannelSecurity& security, const tcp::acceptor& acceptor,
                      std::string_view address) {
  boost::system::error_code error;
  const tcp::endpoint endpoint = acceptor.local_endpoint(error);
  return security.CheckAddress(!error && endpoint.address().is_loopback(), std::string(address));
}

void SetConnectionOptions(tcp::socket& socket) {
  // Failures are ignored: the connection works without, only slower or longer.
  boost::system::error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(boost::asio::socket_base::keep_alive(true), ignored);
  const int idle_s = 5, interval_s = 5, probes = 3;
  const int fd = socket.native_handle();
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof(idle_s));
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof(interval_s));
  (void)::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

}  // namespace engram
