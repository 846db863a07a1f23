// engramctl probe, against servers of this process.
#include <thread>

#include <boost/asio/io_context.hpp>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <prometheus/registry.h>

#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "tests/support/child_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

using ::testing::HasSubstr;

class ProbeCommandTest : public ::testing::Test {
 protected:
  void Start(bool ready, ChannelSecurity security = {}) {
    HttpServer::Options options;
    options.listen_address = "127.0.0.1:0";
    options.security = std::move(security);
    auto server =
        HttpServer::Create(io_.get_executor(), options,
                           ServicePages(std::make_shared<prometheus::Registry>(), [ready] {
                             return Readiness{ready, R"({"slots":7})"};
                           }));
    ASSERT_TRUE(server.has_value()) << server.error().ToString();
    server_ = std::move(*server);
    thread_ = std::thread([this] { io_.run(); });
  }
  void TearDown() override {
    io_.stop();
    if (thread_.joinable()) thread_.join();
  }
  test::CommandOutput Probe(std::vector<std::string> more = {}) {
    std::vector<std::string> command = {std::string(ENGRAM_BIN_DIR) + "/engramctl", "probe",
                                        server_->address()};
    command.insert(command.end(), more.begin(), more.end());
    return test::RunCommand(command, std::chrono::seconds(60));
  }

  test::ScratchDir scratch_;
  test::TestCa ca_;
  boost::asio::io_context io_;
  std::unique_ptr<HttpServer> server_;
  std::thread thread_;
};

TEST_F(ProbeCommandTest, ReadyIsZeroAndShowsThePage) {
  Start(true);
  const auto probe = Probe();
  EXPECT_EQ(probe.exit_status, 0) << probe.err;
  EXPECT_THAT(probe.out, HasSubstr(R"("slots":7)"));
  const auto metrics = Probe({"--path", "/metrics"});
  EXPECT_EQ(metrics.exit_status, 0) << metrics.err;
  EXPECT_THAT(metrics.out, HasSubstr("process_cpu_seconds_total"));
}

TEST_F(ProbeCommandTest, NotReadyIsOneAndStillShowsThePage) {
  Start(false);
  const auto probe = Probe();
  EXPECT_EQ(probe.exit_status, 1);
  EXPECT_THAT(probe.out, HasSubstr(R"("slots":7)"));
  EXPECT_THAT(probe.err, HasSubstr("/readyz answered 503"));
  EXPECT_EQ(Probe({"--path", "/healthz"}).exit_status, 0);
}

TEST_F(ProbeCommandTest, AsksUnderTlsAndRefusesAnotherCasServer) {
  Start(true, ca_.Security(scratch_.path() / "server", Role::kNode, "m0"));
  ca_.Issue(scratch_.path() / "mine", Role::kReader, "probe");
  const auto probe = Probe({"--certs", (scratch_.path() / "mine").string()});
  EXPECT_EQ(probe.exit_status, 0) << probe.err;
  EXPECT_THAT(probe.out, HasSubstr(R"("slots":7)"));
  test::TestCa().Issue(scratch_.path() / "other", Role::kReader, "probe");
  const auto refused = Probe({"--certs", (scratch_.path() / "other").string()});
  EXPECT_EQ(refused.exit_status, 1);
  EXPECT_THAT(refused.err, HasSubstr("not one of our CA"));
  const auto plain = Probe();
  EXPECT_EQ(plain.exit_status, 1);
  EXPECT_THAT(plain.err, HasSubstr("--certs"));
}

TEST_F(ProbeCommandTest, NobodyThereIsOneAndSaysWhere) {
  Start(true);
  io_.stop();
  thread_.join();
  server_.reset();
  const auto gone =
      test::RunCommand({std::string(ENGRAM_BIN_DIR) + "/engramctl", "probe", "127.0.0.1:1"},
                       std::chrono::seconds(60));
  EXPECT_EQ(gone.exit_status, 1);
  EXPECT_THAT(gone.err, HasSubstr("nothing answers at 127.0.0.1:1"));
}

TEST_F(ProbeCommandTest, SilentServerIsGivenUp) {
  // It accepts, and never answers: nobody runs its event loop.
  Start(true);
  io_.stop();
  thread_.join();
  const auto silent = Probe({"--timeout-s", "0.3"});
  EXPECT_EQ(silent.exit_status, 1);
  EXPECT_THAT(silent.err, HasSubstr("did not answer within"));
}

}  // namespace
}  // namespace engram
