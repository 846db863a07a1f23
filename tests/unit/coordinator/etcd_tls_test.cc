// TLS to a real etcd that asks for certificates: who is refused, by whom, and in what words.
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "coordinator/etcd_store.h"
#include "tests/support/child_process.h"
#include "tests/support/etcd_process.h"
#include "tests/support/test_certificates.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

// As a program would be that has the CA and nothing to show.
class NoCertificate final : public TlsIdentity {
 public:
  explicit NoCertificate(const fs::path& ca)
      : context_(std::make_shared<boost::asio::ssl::context>(boost::asio::ssl::context::tls)) {
    context_->set_verify_mode(boost::asio::ssl::verify_peer);
    context_->load_verify_file(ca.string());
  }
  std::shared_ptr<boost::asio::ssl::context> Context() override { return context_; }
  [[nodiscard]] PeerIdentity own() const override { return {}; }
  [[nodiscard]] int64_t ExpiresAt() override { return 0; }
  [[nodiscard]] int64_t SecondsLeft() const override { return 0; }

 private:
  std::shared_ptr<boost::asio::ssl::context> context_;
};

class EtcdTlsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (test::EtcdProcess::Program().empty()) {
      GTEST_SKIP() << "etcd is not installed: run deploy/install-deps";
    }
  }
  // etcd with a certificate for `host`, made then and good for 90 days.
  void StartEtcd(const std::string& host = "127.0.0.1", UnixTime made = test::UnixNow()) {
    ca_.Issue(server(), For("etcd", {host}), made);
    auto etcd = test::EtcdProcess::Start(1, server());
    ASSERT_TRUE(etcd.has_value()) << etcd.error().ToString();
    etcd_ = *std::move(etcd);
    ca_.Issue(own(), For("c0", {}), test::UnixNow());
  }
  static CertificateRequest For(const std::string& name, std::vector<std::string> hosts) {
    CertificateRequest request;
    request.role = Role::kCoordinator;
    request.name = name;
    request.hosts = std::move(hosts);
    return request;
  }
  [[nodiscard]] fs::path server() const { return scratch_.path() / "etcd"; }
  [[nodiscard]] fs::path own() const { return scratch_.path() / "c0"; }
  [[nodiscard]] std::shared_ptr<TlsIdentity> Identity() const {
    return TlsIdentity::LoadWithoutRole(own()).value();
  }
  [[nodiscard]] EtcdClient Client(std::shared_ptr<TlsIdentity> identity) const {
    return EtcdClient({.endpoints = etcd_->endpoints(),
                       .try_timeout = milliseconds(5000),
                       .identity = std::move(identity)});
  }
  static Status Ask(EtcdClient& client) {
    const auto reply = client.Range(EtcdOp::Range("x"), SteadyClock().Now() + seconds(5));
    return reply.has_value() ? Status() : reply.error();
  }
  [[nodiscard]] Status AskOnce(std::shared_ptr<TlsIdentity> identity) const {
    EtcdClient client = Client(std::move(identity));
    return Ask(client);
  }
  static void ExpectRefused(const Status& status, const std::string& words) {
    EXPECT_EQ(status.code(), StatusCode::kUnavailable);
    EXPECT_THAT(status.message(), HasSubstr(words));
    EXPECT_THAT(status.message(), HasSubstr("--etcd-certs"));
  }
  // Until asking gives `code`: changed files are looked at once a second.
  static Status AskUntil(EtcdClient& client, StatusCode code) {
    const auto until = SteadyClock().Now() + seconds(20);
    Status status = Ask(client);
    while (status.code() != code && SteadyClock().Now() < until) {
      std::this_thread::sleep_for(milliseconds(20));
      status = Ask(client);
    }
    return status;
  }

  // Old enough for certificates of it that have expired.
  const test::TestCa ca_{test::UnixNow() - std::chrono::days(400)};
  const test::TestCa other_;
  test::ScratchDir scratch_;
  std::unique_ptr<test::EtcdProcess> etcd_;
};

TEST_F(EtcdTlsTest, StoreAndElectionWork) {
  StartEtcd();
  ASSERT_NE(etcd_, nullptr);
  const auto open = [&](const std::string& address) {
    EtcdStore::Options options;
    options.address = ParseEtcdAddress(etcd_->StoreAddress("test")).value();
    EXPECT_TRUE(options.address.tls);
    options.identity = Identity();
    options.lease = seconds(10);
    options.poll = milliseconds(20);
    options.try_timeout = milliseconds(5000);
    auto store = std::make_unique<EtcdStore>(options);
    EXPECT_TRUE(store->Campaign(address, [] {}).ok());
    return store;
  };
  const auto await_term = [](EtcdStore& store) {
    const auto until = SteadyClock().Now() + seconds(20);
    while (store.leadership().term == 0 && SteadyClock().Now() < until) {
      std::this_thread::sleep_for(milliseconds(2));
    }
    return store.leadership().term;
  };
  auto first = open("first:1");
  const uint64_t term = await_term(*first);
  ASSERT_NE(term, 0u);
  auto second = open("second:1");
  // Small, and in several transactions.
  ASSERT_EQ(first->Commit(term, {{"a", "1"}, {"big", std::string(2u << 20, 'b')}}), Status());
  first = nullptr;
  ASSERT_GT(await_term(*second), term);
  const std::vector<MetadataRecord> expected = {{"a", "1"}, {"big", std::string(2u << 20, 'b')}};
  EXPECT_EQ(second->ReadAll().value(), expected);
}

TEST_F(EtcdTlsTest, AnEtcdOfAnotherCaIsRefused) {
  StartEtcd();
  ASSERT_NE(etcd_, nullptr);
  other_.Issue(own(), For("c0", {}), test::UnixNow());
  ExpectRefused(AskOnce(Identity()), "not of a CA in the ca.crt");
}

TEST_F(EtcdTlsTest, AnEtcdWhoseCertificateHasExpiredIsRefused) {
  StartEtcd("127.0.0.1", test::UnixNow() - std::chrono::days(91));
  ASSERT_NE(etcd_, nullptr);
  ExpectRefused(AskOnce(Identity()), "its certificate has expired");
}

TEST_F(EtcdTlsTest, AnEtcdWhoseCertificateIsForAnotherHostIsRefused) {
  StartEtcd("etcd.example");
  ASSERT_NE(etcd_, nullptr);
  ExpectRefused(AskOnce(Identity()), "its certificate is for etcd.example, not for 127.0.0.1");
  const std::string port = etcd_->endpoints()[0].substr(etcd_->endpoints()[0].rfind(':'));
  EtcdClient by_name({.endpoints = {"localhost" + port}, .identity = Identity()});
  ExpectRefused(Ask(by_name), "its certificate is for etcd.example, not for localhost");
  // etcd takes a new certificate with the next connection.
  ca_.Issue(server(), For("etcd", {"etcd.example", "localhost"}), test::UnixNow());
  EXPECT_EQ(Ask(by_name), Status());
}

TEST_F(EtcdTlsTest, WhoShowsNoGoodCertificateIsRefusedByEtcd) {
  StartEtcd();
  ASSERT_NE(etcd_, nullptr);
  ExpectRefused(AskOnce(std::make_shared<NoCertificate>(own() / "ca.crt")),
                "it refused the certificate");
  // etcd's CA is known, the own certificate is of another one.
  other_.Issue(own(), For("c0", {}), test::UnixNow());
  fs::copy_file(server() / "ca.crt", own() / "ca.crt", fs::copy_options::overwrite_existing);
  ExpectRefused(AskOnce(Identity()), "it refused the certificate");
  // One that has expired is not even loaded,
  ca_.Issue(own(), For("c0", {}), test::UnixNow() - std::chrono::days(91));
  const auto expired = TlsIdentity::LoadWithoutRole(own());
  ASSERT_FALSE(expired.has_value());
  EXPECT_THAT(expired.error().message(), HasSubstr("has expired"));
  // nor is a folder without one.
  fs::remove(own() / "tls.crt");
  const auto missing = TlsIdentity::LoadWithoutRole(own());
  ASSERT_FALSE(missing.has_value());
  EXPECT_THAT(missing.error().message(), HasSubstr("tls.crt is not there"));
}

TEST_F(EtcdTlsTest, ReplacedFilesAreTakenUpWhileItRuns) {
  StartEtcd();
  ASSERT_NE(etcd_, nullptr);
  EtcdClient client = Client(Identity());
  ASSERT_EQ(Ask(client), Status());
  // One that etcd refuses: the connection that was open is not used on.
  other_.Issue(own(), For("c0", {}), test::UnixNow());
  fs::copy_file(server() / "ca.crt", own() / "ca.crt", fs::copy_options::overwrite_existing);
  ExpectRefused(AskUntil(client, StatusCode::kUnavailable), "it refused the certificate");
  ca_.Issue(own(), For("c0", {}), test::UnixNow());
  EXPECT_EQ(AskUntil(client, StatusCode::kOk), Status());
}

// As from a company's own PKI.
TEST(EtcdCertificateTest, NeedsNoRole) {
  const test::ScratchDir dir;
  const test::CommandOutput made = test::RunCommand(
      {"/usr/bin/openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
       "-nodes", "-subj", "/CN=etcd client", "-days", "2", "-keyout",
       (dir.path() / "tls.key").string(), "-out", (dir.path() / "tls.crt").string()},
      seconds(30));
  ASSERT_EQ(made.exit_status, 0) << made.err;
  fs::copy_file(dir.path() / "tls.crt", dir.path() / "ca.crt");
  EXPECT_FALSE(TlsIdentity::Load(dir.path()).has_value());
  EXPECT_TRUE(TlsIdentity::LoadWithoutRole(dir.path()).has_value());
}

TEST_F(EtcdTlsTest, OneSideWithTlsAndTheOtherWithoutIsSaid) {
  StartEtcd();
  ASSERT_NE(etcd_, nullptr);
  ExpectRefused(AskOnce(nullptr), "if it speaks TLS only, write https://");
  auto plain = test::EtcdProcess::Start();
  ASSERT_TRUE(plain.has_value()) << plain.error().ToString();
  EtcdClient client({.endpoints = (*plain)->endpoints(), .identity = Identity()});
  ExpectRefused(Ask(client), "it does not speak TLS");
}

TEST(EtcdPlainTest, IsForLoopbackUnlessInsecure) {
  EXPECT_EQ(CheckPlainEtcd("127.0.0.1:2379"), Status());
  EXPECT_EQ(CheckPlainEtcd("[::1]:2379"), Status());
  const Status refused = CheckPlainEtcd("192.0.2.1:2379");
  EXPECT_EQ(refused.code(), StatusCode::kInvalidArgument);
  EXPECT_THAT(refused.message(), HasSubstr("https://192.0.2.1:2379"));
  EXPECT_THAT(refused.message(), HasSubstr("--etcd-certs"));
  // A client looks again, as a name may be another address by then.
  EtcdClient client({.endpoints = {"192.0.2.1:2379"}});
  const auto reply = client.Range(EtcdOp::Range("x"), SteadyClock().Now() + seconds(5));
  ASSERT_FALSE(reply.has_value());
  EXPECT_EQ(reply.error().code(), StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace engram
