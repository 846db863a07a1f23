// The files of a CA and its certificates: access, replacing, and what is refused.
#include "engram/security/certificate_folder.h"

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/child_process.h"
#include "tests/unit/engram/security/verified_certificates.h"

namespace engram {
namespace {

namespace fs = std::filesystem;
using test::Authority;
using test::kDay;
using test::kNow;
using test::MakeAuthority;
using test::Must;
using test::VerifyError;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Of a folder as a process reads it: its key fits, and its own bundle trusts it for both ends.
std::string FolderError(const fs::path& folder, UnixTime when = kNow) {
  const auto bundle = ReadCertificates(folder / "ca.crt");
  if (!bundle.has_value()) return bundle.error().ToString();
  const auto own = ReadCertificates(folder / "tls.crt");
  if (!own.has_value()) return own.error().ToString();
  const auto key = ReadPrivateKey(folder / "tls.key");
  if (!key.has_value()) return key.error().ToString();
  if (!own->front().HasKey(*key)) return "another key";
  for (const int purpose : {X509_PURPOSE_SSL_SERVER, X509_PURPOSE_SSL_CLIENT}) {
    const std::string error = VerifyError(own->front(), *bundle, purpose, when);
    if (!error.empty()) return error;
  }
  return "";
}

// Whether a process that trusts `bundle_folder`'s bundle takes `certificate_folder`'s certificate.
bool Trusts(const fs::path& bundle_folder, const fs::path& certificate_folder) {
  const auto bundle = Must(ReadCertificates(bundle_folder / "ca.crt"));
  const auto own = Must(ReadCertificates(certificate_folder / "tls.crt"));
  return VerifyError(own.front(), bundle, X509_PURPOSE_SSL_CLIENT, kNow).empty();
}

mode_t Mode(const fs::path& file) {
  struct stat about {};
  EXPECT_EQ(::stat(file.c_str(), &about), 0) << file;
  return about.st_mode & 07777;
}

void Write(const fs::path& file, const std::string& text) {
  std::ofstream(file, std::ios::binary) << text;
}

class CertificateFolderTest : public ::testing::Test {
 protected:
  [[nodiscard]] fs::path dir() const { return scratch_.path() / "certs"; }
  [[nodiscard]] fs::path Of(const std::string& name) const { return dir() / name; }
  void Init() const { (void)Must(CertificateFolder::Create(dir(), kCaDays, kNow)); }
  [[nodiscard]] CertificateFolder Open() const { return Must(CertificateFolder::Open(dir())); }
  Certificate Issue(Role role, const std::string& name, std::vector<std::string> hosts = {}) const {
    return Must(Open().Issue({role, name, std::move(hosts), kCertificateDays}, kNow));
  }

  const test::ScratchDir scratch_;
};

TEST_F(CertificateFolderTest, FilesAreThoseOfAKubernetesSecretAndKeysArePrivate) {
  Init();
  Issue(Role::kNode, "m1");
  EXPECT_EQ(FolderError(Of("m1")), "");
  EXPECT_EQ(Mode(dir() / "ca.key"), 0600u);
  EXPECT_EQ(Mode(dir() / "ca.crt"), 0644u);
  EXPECT_EQ(Mode(Of("m1") / "tls.key"), 0600u);
  EXPECT_EQ(Mode(Of("m1") / "tls.crt"), 0644u);
  EXPECT_EQ(Mode(Of("m1") / "ca.crt"), 0644u);
  EXPECT_THAT(test::ReadFile(Of("m1") / "tls.key"), HasSubstr("-----BEGIN PRIVATE KEY-----"));
  EXPECT_EQ(test::ReadFile(Of("m1") / "ca.crt"), test::ReadFile(dir() / "ca.crt"));
  size_t files = 0;
  for (const auto& entry : fs::recursive_directory_iterator(dir()))
    files += entry.is_regular_file();
  EXPECT_EQ(files, 5u);
  EXPECT_THAT(Must(CertificateNames(dir())), ElementsAre("m1"));
}

TEST_F(CertificateFolderTest, NothingIsOverwritten) {
  Init();
  const std::string ca_key = test::ReadFile(dir() / "ca.key");
  const auto again = CertificateFolder::Create(dir(), kCaDays, kNow);
  ASSERT_FALSE(again.has_value());
  EXPECT_EQ(again.error().code(), StatusCode::kAlreadyExists);
  EXPECT_THAT(again.error().message(), HasSubstr("certs issue"));
  EXPECT_EQ(test::ReadFile(dir() / "ca.key"), ca_key);

  Issue(Role::kNode, "m1");
  const std::string key = test::ReadFile(Of("m1") / "tls.key");
  const auto twice = Open().Issue({Role::kOperator, "m1"}, kNow);
  ASSERT_FALSE(twice.has_value());
  EXPECT_EQ(twice.error().code(), StatusCode::kAlreadyExists);
  EXPECT_THAT(twice.error().message(), HasSubstr("certs rotate --name m1"));
  fs::remove(Of("m1") / "tls.crt");
  const auto only_key = Open().Issue({Role::kNode, "m1"}, kNow);
  ASSERT_FALSE(only_key.has_value());
  EXPECT_EQ(only_key.error().code(), StatusCode::kAlreadyExists);
  EXPECT_EQ(test::ReadFile(Of("m1") / "tls.key"), key);

  fs::remove(dir() / "ca.crt");
  const auto half = CertificateFolder::Create(dir(), kCaDays, kNow);
  ASSERT_FALSE(half.has_value());
  EXPECT_THAT(half.error().message(), HasSubstr("ca.key is there without ca.crt"));
  EXPECT_EQ(test::ReadFile(dir() / "ca.key"), ca_key);
}

TEST_F(CertificateFolderTest, NameCannotLeadOutOfTheFolder) {
  Init();
  for (const char* name : {"../x", "..", "/tmp/x", "a/../../x", "ca.crt"}) {
    const auto refused = Open().Issue({Role::kNode, name}, kNow);
    ASSERT_FALSE(refused.has_value()) << name;
    EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
    EXPECT_FALSE(Open().Reissue(name, 90, kNow).has_value());
  }
  EXPECT_FALSE(fs::exists(scratch_.path() / "x"));
}

TEST_F(CertificateFolderTest, MissingAndDamagedCaFilesAreNamedWithTheFix) {
  const auto error = [&] {
    const auto opened = CertificateFolder::Open(dir());
    return opened.has_value() ? std::string() : opened.error().ToString();
  };
  EXPECT_THAT(error(), HasSubstr("NOT_FOUND: " + dir().string()));
  EXPECT_THAT(error(), HasSubstr("certs init"));
  Init();
  const std::string key = test::ReadFile(dir() / "ca.key");
  const std::string certificate = test::ReadFile(dir() / "ca.crt");
  fs::remove(dir() / "ca.key");
  EXPECT_THAT(error(), HasSubstr("ca.key is not there: this needs the CA's key"));
  Write(dir() / "ca.key", "rubbish");
  EXPECT_THAT(error(), HasSubstr("MALFORMED: " + (dir() / "ca.key").string()));
  Write(dir() / "ca.key", Must(Must(PrivateKey::Generate()).Pem()));
  EXPECT_THAT(error(), HasSubstr("FAILED_PRECONDITION: " + (dir() / "ca.key").string()));
  Write(dir() / "ca.key", key);
  Write(dir() / "ca.crt", certificate.substr(0, 200));
  EXPECT_THAT(error(), HasSubstr("MALFORMED: " + (dir() / "ca.crt").string()));
  Write(dir() / "ca.crt", std::string(2 << 20, 'x'));
  EXPECT_THAT(error(), HasSubstr("larger than 1 MiB"));
  fs::remove(dir() / "ca.crt");
  EXPECT_THAT(error(), HasSubstr("NOT_FOUND: cannot read " + (dir() / "ca.crt").string()));
  Write(dir() / "ca.crt", certificate);
  EXPECT_EQ(error(), "");
}

TEST_F(CertificateFolderTest, ReissueKeepsWhoItIsAndChangesKeyAndSerial) {
  Init();
  const Certificate old = Issue(Role::kCoordinator, "c1", {"10.0.0.1", "c1.local"});
  const PrivateKey old_key = Must(ReadPrivateKey(Of("c1") / "tls.key"));
  const UnixTime later = kNow + 60 * kDay;
  const Certificate made = Must(Open().Reissue("c1", 30, later));
  EXPECT_EQ(FolderError(Of("c1"), later), "");
  EXPECT_EQ(made.info().name, "c1");
  EXPECT_EQ(made.info().role, Role::kCoordinator);
  EXPECT_EQ(made.info().hosts, old.info().hosts);
  EXPECT_EQ(made.info().not_after, later + 30 * kDay);
  EXPECT_NE(made.info().serial, old.info().serial);
  EXPECT_FALSE(made.HasKey(old_key));
  EXPECT_EQ(Must(ReadCertificates(Of("c1") / "tls.crt")).front().info().serial, made.info().serial);
  const auto missing = Open().Reissue("c2", 90, kNow);
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), StatusCode::kNotFound);
}

TEST_F(CertificateFolderTest, ReissueKeepsTheAccessThatAGroupWasGiven) {
  Init();
  Issue(Role::kNode, "m1");
  const fs::path key = Of("m1") / "tls.key";
  ASSERT_EQ(::chmod(key.c_str(), 0666), 0);
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown(key.c_str(), 12345, 12346), 0);
  }
  (void)Must(Open().Reissue("m1", 90, kNow));
  // The group may read; others may not, although they could.
  EXPECT_EQ(Mode(key), 0640u);
  struct stat about {};
  ASSERT_EQ(::stat(key.c_str(), &about), 0);
  EXPECT_EQ(about.st_uid, ::geteuid() == 0 ? 12345 : ::geteuid());
  if (::geteuid() == 0) {
    EXPECT_EQ(about.st_gid, 12346u);
  }
}

TEST_F(CertificateFolderTest, ReissueSignsNothingThatTheCaDidNot) {
  Init();
  Issue(Role::kReader, "r1");
  Issue(Role::kOperator, "admin");
  const auto refusal = [&] {
    const auto made = Open().Reissue("r1", 90, kNow);
    return made.has_value() ? "made" : made.error().ToString();
  };
  const fs::path file = Of("r1") / "tls.crt";
  // Its owner puts a certificate with more rights there.
  const Authority own = MakeAuthority();
  const Certificate forged =
      Must(MakeCertificate(own.certificate, own.key, own.key, {Role::kOperator, "r1"}, kNow));
  Write(file, Must(forged.Pem()));
  EXPECT_THAT(refusal(), HasSubstr("FAILED_PRECONDITION: " + file.string() + " is not signed"));
  Write(file, test::ReadFile(Of("admin") / "tls.crt"));
  EXPECT_THAT(refusal(), HasSubstr(file.string() + " is of 'admin', not of 'r1'"));
  Write(file, "rubbish");
  EXPECT_THAT(refusal(), HasSubstr("MALFORMED: " + file.string()));
}

TEST_F(CertificateFolderTest, CaIsReplacedWithOldAndNewCertificatesGoodAtEachStep) {
  Init();
  Issue(Role::kNode, "old");
  Issue(Role::kReader, "other");
  const std::string old_ca = Open().ca().info().name;

  ASSERT_TRUE(Open().RotateCa(kCaDays, kNow).ok());
  EXPECT_EQ(Must(ReadCertificates(dir() / "ca.crt")).size(), 2u);
  const std::string new_ca = Open().ca().info().name;
  EXPECT_NE(new_ca, old_ca);
  EXPECT_EQ(Must(ReadCertificates(Of("old") / "ca.crt")).front().info().name, new_ca);
  EXPECT_EQ(Mode(dir() / "ca.key"), 0600u);
  EXPECT_EQ(Issue(Role::kNode, "new").info().issuer, new_ca);
  for (const char* trusting : {"old", "new"}) {
    for (const char* trusted : {"old", "new", "other"}) {
      EXPECT_TRUE(Trusts(Of(trusting), Of(trusted))) << trusting << " " << trusted;
    }
  }

  const std::string bundle = test::ReadFile(dir() / "ca.crt");
  auto early = Open().DropOldCas();
  ASSERT_FALSE(early.has_value());
  EXPECT_EQ(early.error().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(early.error().message(), HasSubstr((Of("old") / "tls.crt").string()));
  EXPECT_EQ(test::ReadFile(dir() / "ca.crt"), bundle);

  const std::string old_pem = test::ReadFile(Of("old") / "tls.crt");
  (void)Must(Open().Reissue("old", 90, kNow));
  EXPECT_TRUE(Trusts(Of("old"), Of("other")) && Trusts(Of("other"), Of("old")));
  EXPECT_FALSE(Open().DropOldCas().has_value());
  (void)Must(Open().Reissue("other", 90, kNow));

  const auto dropped = Must(Open().DropOldCas());
  ASSERT_EQ(dropped.size(), 1u);
  EXPECT_EQ(dropped.front().info().name, old_ca);
  for (const char* name : {"old", "new", "other"}) {
    EXPECT_EQ(FolderError(Of(name)), "");
    EXPECT_EQ(test::ReadFile(Of(name) / "ca.crt"), test::ReadFile(dir() / "ca.crt"));
    EXPECT_EQ(Must(ReadCertificates(Of(name) / "ca.crt")).size(), 1u);
  }
  const auto stale = Must(Certificate::FromPem(old_pem, "stale"));
  EXPECT_NE(VerifyError(stale.front(), Must(ReadCertificates(Of("new") / "ca.crt")),
                        X509_PURPOSE_SSL_CLIENT, kNow),
            "");
  EXPECT_TRUE(Must(Open().DropOldCas()).empty());
}

TEST_F(CertificateFolderTest, StopBetweenBundleAndKeyLeavesTheOldCaSigning) {
  Init();
  const std::string old_key = test::ReadFile(dir() / "ca.key");
  const std::string old_ca = Open().ca().info().name;
  ASSERT_TRUE(Open().RotateCa(kCaDays, kNow).ok());
  Write(dir() / "ca.key", old_key);
  EXPECT_EQ(Open().ca().info().name, old_ca);
  EXPECT_EQ(Issue(Role::kNode, "m1").info().issuer, old_ca);
  EXPECT_EQ(FolderError(Of("m1")), "");
  ASSERT_EQ(Must(Open().DropOldCas()).size(), 1u);
  EXPECT_EQ(FolderError(Of("m1")), "");
}

TEST_F(CertificateFolderTest, ExpiredCaIsReplacedAndItsCertificatesMadeAgain) {
  (void)Must(CertificateFolder::Create(dir(), 10, kNow));
  Issue(Role::kNode, "m1");
  const UnixTime later = kNow + 20 * kDay;
  EXPECT_FALSE(Open().Reissue("m1", 90, later).has_value());
  ASSERT_TRUE(Open().RotateCa(kCaDays, later).ok());
  (void)Must(Open().Reissue("m1", 90, later));
  EXPECT_EQ(FolderError(Of("m1"), later), "");
}

TEST_F(CertificateFolderTest, ThoseWhoCallAtOnceTakeTurns) {
  std::vector<std::thread> threads;
  std::atomic<int> made = 0;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] { made += CertificateFolder::Create(dir(), kCaDays, kNow) ? 1 : 0; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(made, 1);
  for (int i = 0; i < 4; ++i) Issue(Role::kNode, "m" + std::to_string(i));
  threads.clear();
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (const char* name : {"m0", "m1", "m2", "m3"}) (void)Must(Open().Reissue(name, 90, kNow));
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int i = 0; i < 4; ++i) EXPECT_EQ(FolderError(Of("m" + std::to_string(i))), "");
}

}  // namespace
}  // namespace engram
