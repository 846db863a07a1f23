// HTTPS: who only begins a handshake keeps nobody out.
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <poll.h>

#include "engram/http/http_server.h"
#include "engram/rpc/host_port.h"
#include "tests/support/child_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::ip::tcp;

constexpr int kPatienceMs = 5000;
constexpr size_t kConnectionsMax = 4;

class HttpsServerTest : public testing::Test {
 protected:
  HttpsServerTest() {
    HttpServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.connections_max = kConnectionsMax;
    options.security = ca_.Security(scratch_.path() / "c0", Role::kCoordinator, "c0");
    server_ = HttpServer::Create(
                  io_.get_executor(), options,
                  [](const HttpRequest& request, HttpResponder& responder) -> awaitable<void> {
                    // Has a name: GCC 12 destroys a temporary of ?: inside co_await twice.
                    std::string who = "nobody";
                    if (request.identity != nullptr) who = request.identity->name;
                    (void)co_await responder.Respond(200, "text/plain", std::move(who));
                  })
                  .value();
    thread_ = std::thread([this] { io_.run(); });
  }
  ~HttpsServerTest() override {
    io_.stop();
    thread_.join();
  }
  tcp::socket Connect() {
    tcp::socket socket(client_io_);
    const auto target = ParseHostPort(server_->address());
    socket.connect({boost::asio::ip::make_address(target->host), target->port});
    return socket;
  }
  static bool ClosesWithin(tcp::socket& socket, int patience_ms) {
    pollfd wanted{socket.native_handle(), POLLIN, 0};
    if (::poll(&wanted, 1, patience_ms) <= 0) return false;
    char byte = 0;
    boost::system::error_code error;
    (void)socket.receive(boost::asio::buffer(&byte, 1), tcp::socket::message_peek, error);
    return static_cast<bool>(error);
  }
  // The answer to a GET by who has a certificate.
  std::string Get(const std::string& path) {
    const auto security = ca_.Security(scratch_.path() / "ann", Role::kOperator, "ann");
    const auto context = security.identity->Context();
    boost::asio::ssl::stream<tcp::socket> stream(Connect(), *context);
    boost::system::error_code error;
    stream.handshake(boost::asio::ssl::stream_base::client, error);
    if (error) return error.message();
    const std::string text = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    boost::asio::write(stream, boost::asio::buffer(text), error);
    std::string reply;
    boost::asio::read(stream, boost::asio::dynamic_buffer(reply), error);
    return reply;
  }

  test::ScratchDir scratch_;
  test::TestCa ca_;
  boost::asio::io_context io_;
  boost::asio::io_context client_io_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(HttpsServerTest, OfTooManyHandshakesTheOldestEndsAndWhoHasACertificateIsAnswered) {
  std::vector<tcp::socket> silent;
  for (size_t i = 0; i < 3 * kConnectionsMax; ++i) {
    silent.push_back(Connect());
    if (i % 2 == 1) {  // a greeting's first bytes, which promise more
      boost::asio::write(silent.back(), boost::asio::buffer(std::string("\x16\x03\x01\x02", 4)));
    }
    if (i >= kConnectionsMax) {
      EXPECT_TRUE(ClosesWithin(silent[i - kConnectionsMax], kPatienceMs)) << i;
    }
  }
  const std::string reply = Get("/metrics");
  EXPECT_NE(reply.find("200 OK"), std::string::npos) << reply;
  EXPECT_NE(reply.find("ann"), std::string::npos) << reply;
  // One more has gone for that, and the others have not.
  const size_t first = silent.size() - kConnectionsMax;
  EXPECT_TRUE(ClosesWithin(silent[first], kPatienceMs));
  for (size_t i = first + 1; i < silent.size(); ++i) {
    EXPECT_FALSE(ClosesWithin(silent[i], 0)) << i;
  }
}

}  // namespace
}  // namespace engram
