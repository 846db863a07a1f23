// "host:port" addresses of control connections: parsing, listening, showing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "engram/base/status.h"
#include "engram/security/tls_identity.h"

namespace engram {

struct HostPort {
  std::string host;  // a name or a number, without brackets
  uint16_t port = 0;
};

// "host:port", "1.2.3.4:port" or "[v6]:port". ERRORS: kInvalidArgument showing the text.
[[nodiscard]] Result<HostPort> ParseHostPort(std::string_view text);

// "a:1,b:2" to its parts; empty ones are left out. Whether they are addresses is not looked at.
[[nodiscard]] std::vector<std::string> SplitAddresses(std::string_view list);
// The same, with every part checked. ERRORS: kInvalidArgument (none, or showing the bad one).
[[nodiscard]] Result<std::vector<std::string>> ParseAddresses(std::string_view list);

// "1.2.3.4:80", "[::1]:80".
[[nodiscard]] std::string EndpointText(const boost::asio::ip::tcp::endpoint& endpoint);

// Opens a listening socket. A name is resolved now, which may block.
// ERRORS: kInvalidArgument (not "host:port"), kIo naming the address, and the fix when it is taken.
[[nodiscard]] Result<boost::asio::ip::tcp::acceptor> Listen(
    const boost::asio::any_io_executor& executor, std::string_view address);

// Whether a process with this security may listen there. ERRORS: kInvalidArgument.
[[nodiscard]] Status CheckListening(const ChannelSecurity& security,
                                    const boost::asio::ip::tcp::acceptor& acceptor,
                                    std::string_view address);

// What every accepted or made connection gets: no Nagle delay, and keep-alive probes that find a
// vanished host within about 20 s.
void SetConnectionOptions(boost::asio::ip::tcp::socket& socket);

}  // namespace engram
