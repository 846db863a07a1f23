// HTTPS: what peers without a certificate, or with one that has ended, cost others.
#include <chrono>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/read_until.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <poll.h>

#include "engram/http/http_server.h"
#include "engram/rpc/host_port.h"
#include "tests/support/child_process.h"
#include "tests/support/closes_within.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::ip::tcp;

constexpr std::chrono::milliseconds kPatience{5000};
constexpr size_t kConnectionsMax = 4;
constexpr size_t kStrangersMax = 3;

class HttpsServerTest : public testing::Test {
 protected:
  using TlsStream = boost::asio::ssl::stream<tcp::socket>;

  HttpsServerTest() {
    HttpServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.connections_max = kConnectionsMax;
    options.strangers_max = kStrangersMax;
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
  tcp::socket Connect(const std::string& from = "127.0.0.1") {
    tcp::socket socket(client_io_, tcp::v4());
    socket.bind({boost::asio::ip::make_address(from), 0});
    const auto target = ParseHostPort(server_->address());
    socket.connect({boost::asio::ip::make_address(target->host), target->port});
    return socket;
  }
  // Says its name, and the handshake is over; null: the server closed.
  std::unique_ptr<TlsStream> Greeted(const std::shared_ptr<boost::asio::ssl::context>& context,
                                     const std::string& from) {
    auto stream = std::make_unique<TlsStream>(Connect(from), *context);
    boost::system::error_code error;
    stream->handshake(boost::asio::ssl::stream_base::client, error);
    return error ? nullptr : std::move(stream);
  }
  // What comes until the server closes.
  static std::string Ask(TlsStream& stream, const std::string& text) {
    boost::system::error_code error;
    boost::asio::write(stream, boost::asio::buffer(text), error);
    std::string reply;
    boost::asio::read(stream, boost::asio::dynamic_buffer(reply), error);
    return reply;
  }
  static std::string GetText(const std::string& path, const std::string& more = "") {
    return "GET " + path + " HTTP/1.1\r\nHost: x\r\n" + more + "\r\n";
  }
  // Of who has a certificate.
  std::shared_ptr<boost::asio::ssl::context> Ann() {
    return ca_.Security(scratch_.path() / "ann", Role::kOperator, "ann").identity->Context();
  }
  // Of who has none.
  static std::shared_ptr<boost::asio::ssl::context> Nobody() {
    return std::make_shared<boost::asio::ssl::context>(boost::asio::ssl::context::tls_client);
  }
  // The answer to a GET by who has a certificate.
  std::string Get(const std::string& path, const std::string& from = "127.0.0.1") {
    const auto context = Ann();
    const auto stream = Greeted(context, from);
    if (stream == nullptr) return "no handshake";
    return Ask(*stream, GetText(path, "Connection: close\r\n"));
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
      EXPECT_TRUE(test::ClosesWithin(silent[i - kConnectionsMax], kPatience)) << i;
    }
  }
  const std::string reply = Get("/metrics");
  EXPECT_NE(reply.find("200 OK"), std::string::npos) << reply;
  EXPECT_NE(reply.find("ann"), std::string::npos) << reply;
  // One more has gone for that, and the others have not.
  const size_t first = silent.size() - kConnectionsMax;
  EXPECT_TRUE(test::ClosesWithin(silent[first], kPatience));
  for (size_t i = first + 1; i < silent.size(); ++i) {
    EXPECT_FALSE(test::ClosesWithin(silent[i], std::chrono::milliseconds(0))) << i;
  }
}

TEST_F(HttpsServerTest, HandshakesOfOneHostEndNoneOfAnother) {
  tcp::socket other = Connect("127.0.0.2");
  std::vector<tcp::socket> silent;
  for (size_t i = 0; i < 5 * kConnectionsMax; ++i) {
    silent.push_back(Connect());
    if (i >= kConnectionsMax - 1) {
      EXPECT_TRUE(test::ClosesWithin(silent[i - (kConnectionsMax - 1)], kPatience)) << i;
    }
  }
  EXPECT_FALSE(test::ClosesWithin(other, std::chrono::milliseconds(0)));
}

TEST_F(HttpsServerTest, WhoHasNoCertificateIsAnsweredBeforeItsBodyIsRead) {
  const auto context = Nobody();
  for (const std::string body : {"Content-Length: 1000\r\n", "Content-Length: 900000000000\r\n",
                                 "Transfer-Encoding: chunked\r\n"}) {
    const auto stream = Greeted(context, "127.0.0.1");
    ASSERT_NE(stream, nullptr);
    const std::string reply =
        Ask(*stream, "POST /v1/completions HTTP/1.1\r\nHost: x\r\n" + body + "\r\n");
    EXPECT_NE(reply.find("403 Forbidden"), std::string::npos) << body << reply;
    EXPECT_NE(reply.find("show a certificate"), std::string::npos) << body << reply;
  }
  // Nor is it where it is answered.
  const auto stream = Greeted(context, "127.0.0.1");
  ASSERT_NE(stream, nullptr);
  const std::string reply = Ask(*stream, GetText("/healthz", "Content-Length: 900000000000\r\n"));
  EXPECT_NE(reply.find("200 OK"), std::string::npos) << reply;
}

TEST_F(HttpsServerTest, SilentStrangersOfOneHostKeepNobodyOut) {
  const auto context = Nobody();
  const auto other = Greeted(context, "127.0.0.2");
  ASSERT_NE(other, nullptr);
  std::vector<std::unique_ptr<TlsStream>> silent;
  for (int i = 0; i < 1024; ++i) {
    silent.push_back(Greeted(context, "127.0.0.1"));
    if (silent.size() > 100) silent.erase(silent.begin());  // for the limit of descriptors
  }
  // One that comes now, who shows a certificate, and one that was there before them all.
  const auto later = Greeted(context, "127.0.0.2");
  ASSERT_NE(later, nullptr);
  EXPECT_NE(Ask(*later, GetText("/readyz")).find("200 OK"), std::string::npos);
  EXPECT_NE(Get("/metrics").find("200 OK"), std::string::npos);
  const std::string reply = Ask(*other, GetText("/healthz"));
  EXPECT_NE(reply.find("200 OK"), std::string::npos) << reply;
  // Answered once: then its place is another's.
  EXPECT_NE(reply.find("Connection: close"), std::string::npos) << reply;
}

TEST_F(HttpsServerTest, AHostHasAsManyConnectionsAsAreFree) {
  const auto context = Ann();
  std::vector<std::unique_ptr<TlsStream>> idle;
  for (size_t i = 0; i < kConnectionsMax / 2; ++i) {
    idle.push_back(Greeted(context, "127.0.0.1"));
    ASSERT_NE(idle.back(), nullptr);
  }
  // A client is done with its handshake before the server is.
  std::string reply;
  for (int i = 0; i < 1000 && reply.find("503") == std::string::npos; ++i) reply = Get("/metrics");
  EXPECT_NE(reply.find("503"), std::string::npos) << reply;
  EXPECT_NE(Get("/metrics", "127.0.0.2").find("200 OK"), std::string::npos);
}

TEST_F(HttpsServerTest, AConnectionThatIsKeptIsAnsweredNoLongerThanItsCertificateIsGood) {
  const auto context = Ann();
  const auto stream = Greeted(context, "127.0.0.1");
  ASSERT_NE(stream, nullptr);
  const auto next_reply = [&] {
    std::string reply;
    boost::system::error_code error;
    boost::asio::write(*stream, boost::asio::buffer(GetText("/metrics")), error);
    boost::asio::read_until(*stream, boost::asio::dynamic_buffer(reply), "\r\n\r\n", error);
    return reply;
  };
  std::string reply = next_reply();
  EXPECT_NE(reply.find("200 OK"), std::string::npos) << reply;
  const test::TestCa next;
  next.Issue(scratch_.path() / "c0", Role::kCoordinator, "c0");
  // Whatever is left of an answer's body stands before the next one's header.
  for (int i = 0; i < 200 && reply.find("403") == std::string::npos && !reply.empty(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    reply = next_reply();
  }
  EXPECT_NE(reply.find("403 Forbidden"), std::string::npos) << reply;
}

}  // namespace
}  // namespace engram
