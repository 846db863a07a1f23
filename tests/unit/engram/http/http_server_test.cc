#include "engram/http/http_server.h"

#include <chrono>
#include <string>
#include <thread>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/read.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <gtest/gtest.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "engram/http/service_pages.h"
#include "engram/rpc/host_port.h"
#include "tests/support/child_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using boost::asio::awaitable;
using boost::asio::use_awaitable;
using boost::asio::ip::tcp;

// A server on a thread of its own; the test speaks raw HTTP to it.
class HttpServerTest : public testing::Test {
 protected:
  void Start(HttpServer::Handler handler, HttpServer::Options options = {}) {
    options.listen_address = "127.0.0.1:0";
    auto server = HttpServer::Create(io_.get_executor(), options, std::move(handler));
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  void TearDown() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }

  tcp::socket Connect() {
    tcp::socket socket(client_io_);
    const auto target = ParseHostPort(server_->address());
    socket.connect({boost::asio::ip::make_address(target->host), target->port});
    return socket;
  }
  // Sends `text` and reads until the server closes.
  std::string Exchange(const std::string& text) {
    tcp::socket socket = Connect();
    boost::asio::write(socket, boost::asio::buffer(text));
    std::string reply;
    boost::system::error_code error;
    boost::asio::read(socket, boost::asio::dynamic_buffer(reply), error);
    return reply;
  }
  static std::string Get(const std::string& path) {
    return "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  }

  boost::asio::io_context io_;
  boost::asio::io_context client_io_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

HttpServer::Handler Echo() {
  return [](const HttpRequest& request, HttpResponder& responder) -> awaitable<void> {
    if (request.path == "/throw") throw std::runtime_error("boom");
    if (request.path == "/nothing") co_return;
    responder.AddHeader("X-Query", request.query);
    (void)co_await responder.Respond(200, "text/plain", request.method + " " + request.body);
  };
}

TEST_F(HttpServerTest, HandlerSeesMethodQueryAndBody) {
  Start(Echo());
  const std::string reply = Exchange(
      "POST /echo?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\nrows");
  EXPECT_NE(reply.find("HTTP/1.1 200 OK"), std::string::npos) << reply;
  EXPECT_NE(reply.find("X-Query: a=1"), std::string::npos) << reply;
  EXPECT_NE(reply.find("\r\n\r\nPOST rows"), std::string::npos) << reply;
}

TEST_F(HttpServerTest, NoAnswerIs404AndAThrowIs500) {
  Start(Echo());
  EXPECT_NE(Exchange(Get("/nothing")).find("404"), std::string::npos);
  EXPECT_NE(Exchange(Get("/throw")).find("500"), std::string::npos);
}

TEST_F(HttpServerTest, ALongBodyIs413) {
  Start(Echo(), {.body_bytes_max = 10});
  const std::string reply =
      Exchange("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 11\r\n\r\nelevenbytes");
  EXPECT_NE(reply.find("413"), std::string::npos) << reply;
}

TEST_F(HttpServerTest, BodiesOfAllConnectionsAreBounded) {
  Start(Echo(), {.body_bytes_max = 1000, .bodies_bytes_max = 2000});
  const std::string header = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
  const std::string whole = header + "Content-Length: 1000\r\n\r\n" + std::string(1000, 'x');
  tcp::socket half = Connect();
  boost::asio::write(half, boost::asio::buffer(whole.data(), whole.size() - 1));
  // Once the server has begun with it, this host has its half of the room.
  std::string reply;
  for (int i = 0; i < 1000 && reply.find("503") == std::string::npos; ++i) reply = Exchange(whole);
  EXPECT_NE(reply.find("503"), std::string::npos) << reply;
  // Chunks do not say how long they will be.
  const std::string chunked =
      Exchange(header + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
  EXPECT_NE(chunked.find("503"), std::string::npos) << chunked;
  EXPECT_NE(Exchange(Get("/a")).find("200 OK"), std::string::npos);
  boost::asio::write(half, boost::asio::buffer(std::string("x")));
  boost::system::error_code error;
  std::string first;
  boost::asio::read(half, boost::asio::dynamic_buffer(first), error);
  EXPECT_NE(first.find("200 OK"), std::string::npos) << first;
  EXPECT_NE(Exchange(whole).find("200 OK"), std::string::npos);
  EXPECT_NE(
      Exchange(header + "Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n").find("200 OK"),
      std::string::npos);
}

TEST_F(HttpServerTest, ALongChunkedBodyIs413) {
  Start(Echo(), {.body_bytes_max = 10});
  const std::string reply = Exchange(
      "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: "
      "chunked\r\n\r\nb\r\nelevenbytes\r\n0\r\n\r\n");
  EXPECT_NE(reply.find("413"), std::string::npos) << reply;
}

TEST_F(HttpServerTest, RubbishIs400) {
  Start(Echo());
  EXPECT_NE(Exchange("\x01\x02\x03 rubbish\r\n\r\n").find("400"), std::string::npos);
}

TEST_F(HttpServerTest, WhoSaysNothingOrHalfARequestIsClosed) {
  Start(Echo(), {.request_timeout = std::chrono::milliseconds(300)});
  EXPECT_EQ(Exchange("").find("200"), std::string::npos);  // returns when the server has closed
  EXPECT_EQ(Exchange("GET /a HTTP/1.1\r\nHost: ").find("200"), std::string::npos);
}

TEST_F(HttpServerTest, OneConnectionTooManyIs503) {
  Start(Echo(), {.connections_max = 1});
  tcp::socket first = Connect();
  boost::asio::write(first, boost::asio::buffer(std::string("GET /a HTTP/1.1\r\n")));
  std::string reply;
  for (int i = 0; i < 100 && reply.find("503") == std::string::npos; ++i) reply = Exchange("");
  EXPECT_NE(reply.find("503"), std::string::npos) << reply;
}

TEST_F(HttpServerTest, AConnectionServesSeveralRequests) {
  Start(Echo());
  const std::string reply = Exchange("GET /a HTTP/1.1\r\nHost: x\r\n\r\n" + Get("/b"));
  const size_t first = reply.find("200 OK");
  ASSERT_NE(first, std::string::npos);
  EXPECT_NE(reply.find("200 OK", first + 1), std::string::npos) << reply;
}

TEST_F(HttpServerTest, AStreamArrivesInChunks) {
  Start([](const HttpRequest&, HttpResponder& responder) -> awaitable<void> {
    (void)co_await responder.StartStream(200, "text/event-stream");
    (void)co_await responder.Write("data: one\n\n");
    (void)co_await responder.Write("data: two\n\n");
    (void)co_await responder.EndStream();
  });
  const std::string reply = Exchange(Get("/stream"));
  EXPECT_NE(reply.find("Transfer-Encoding: chunked"), std::string::npos) << reply;
  EXPECT_NE(reply.find("b\r\ndata: one\n\n\r\nb\r\ndata: two\n\n\r\n0\r\n\r\n"), std::string::npos)
      << reply;
}

TEST_F(HttpServerTest, AHandlerLearnsThatItsClientHasGone) {
  std::atomic<bool> gone{false};
  Start([&](const HttpRequest&, HttpResponder& responder) -> awaitable<void> {
    EXPECT_FALSE(responder.PeerGone());
    for (int i = 0; i < 2000 && !responder.PeerGone(); ++i) {
      boost::asio::steady_timer pause(io_, std::chrono::milliseconds(5));
      co_await pause.async_wait(use_awaitable);
    }
    gone.store(responder.PeerGone());
  });
  {
    tcp::socket socket = Connect();
    boost::asio::write(socket, boost::asio::buffer(Get("/wait")));
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  for (int i = 0; i < 2000 && !gone.load(); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_TRUE(gone.load());
}

TEST_F(HttpServerTest, ServicePagesTellHealthReadinessAndMetrics) {
  auto registry = std::make_shared<prometheus::Registry>();
  prometheus::BuildCounter().Name("engram_test_total").Register(*registry).Add({}).Increment(3);
  std::atomic<bool> ready{false};
  Start(ServicePages(registry, [&] { return Readiness{ready.load(), R"({"loaded":1})"}; }));
  EXPECT_NE(Exchange(Get("/healthz")).find("200"), std::string::npos);
  EXPECT_NE(Exchange(Get("/readyz")).find("503"), std::string::npos);
  ready.store(true);
  EXPECT_NE(Exchange(Get("/readyz")).find("{\"loaded\":1}"), std::string::npos);
  EXPECT_NE(Exchange(Get("/metrics")).find("engram_test_total 3"), std::string::npos);
  EXPECT_NE(Exchange(Get("/metrics")).find("process_resident_memory_bytes "), std::string::npos);
  EXPECT_EQ(Exchange(Get("/metrics")).find("engram_certificate_"), std::string::npos);
  EXPECT_NE(Exchange(Get("/other")).find("404"), std::string::npos);
}

TEST_F(HttpServerTest, MetricsTellUntilWhenCertificatesAreValidNewFilesToo) {
  const test::ScratchDir scratch;
  const test::TestCa ca;
  const auto security = ca.Security(scratch.path() / "m0", Role::kNode, "m0");
  Start(ServicePages(
      std::make_shared<prometheus::Registry>(), [] { return Readiness{}; }, nullptr,
      CertificatesOf(security)));
  const auto told = [&] {
    const std::string page = Exchange(Get("/metrics"));
    const std::string name = "engram_certificate_expires_seconds{use=\"cluster\"} ";
    const size_t at = page.find(name);
    return at == std::string::npos ? 0.0 : std::stod(page.substr(at + name.size()));
  };
  const auto now = static_cast<double>(test::UnixNow().time_since_epoch().count());
  EXPECT_NEAR(told(), now + kCertificateDays * 86400.0, 600);
  ca.Issue(scratch.path() / "m0", Role::kNode, "m0", 7);
  // The files are looked at once a second.
  for (int i = 0; i < 2000 && told() > now + 8 * 86400.0; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  EXPECT_NEAR(told(), now + 7 * 86400.0, 600);
  EXPECT_TRUE(CertificatesOf({}).empty());
}

}  // namespace
}  // namespace engram
