// Making and reading certificates, against OpenSSL's own verification.
#include "engram/security/certificates.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "tests/unit/engram/security/verified_certificates.h"

namespace engram {
namespace {

using test::Authority;
using test::kDay;
using test::kNow;
using test::MakeAuthority;
using test::Must;
using test::VerifyError;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<Certificate> BundleOf(const Certificate& ca) {
  return Must(Certificate::FromPem(Must(ca.Pem()), "ca"));
}

// A certificate of `ca`, changed by `change` before it is signed.
template <typename Change>
Certificate MakeChanged(const Authority& ca, const CertificateRequest& request, Change change) {
  const PrivateKey key = Must(PrivateKey::Generate());
  const Certificate made = Must(MakeCertificate(ca.certificate, ca.key, key, request, kNow));
  X509* const copy = X509_dup(made.get());
  change(copy);
  EXPECT_GT(X509_sign(copy, ca.key.get(), EVP_sha256()), 0);
  return Must(Certificate::FromX509(copy, "changed"));
}

void AddSubject(X509* certificate, const char* field, const std::string& text) {
  EXPECT_EQ(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), field, MBSTRING_UTF8,
                                       reinterpret_cast<const unsigned char*>(text.data()),
                                       static_cast<int>(text.size()), -1, 0),
            1);
}

TEST(CertificatesTest, ChainIsGoodForBothEndsAndSaysWhatWasAsked) {
  const Authority ca = MakeAuthority();
  const auto bundle = BundleOf(ca.certificate);
  EXPECT_EQ(VerifyError(ca.certificate, bundle, X509_PURPOSE_ANY, kNow), "");
  for (const Role role : {Role::kReader, Role::kNode, Role::kCoordinator, Role::kOperator}) {
    const PrivateKey key = Must(PrivateKey::Generate());
    const CertificateRequest request = {role, "m1", {"10.0.0.2", "fd00::2", "m1.example.net"}, 90};
    const Certificate made = Must(MakeCertificate(ca.certificate, ca.key, key, request, kNow));
    EXPECT_EQ(VerifyError(made, bundle, X509_PURPOSE_SSL_SERVER, kNow), "");
    EXPECT_EQ(VerifyError(made, bundle, X509_PURPOSE_SSL_CLIENT, kNow), "");
    EXPECT_EQ(VerifyError(made, bundle, X509_PURPOSE_SSL_CLIENT, kNow - std::chrono::minutes(4)),
              "");
    EXPECT_NE(VerifyError(made, bundle, X509_PURPOSE_SSL_CLIENT, kNow + 90 * kDay + kDay), "");
    EXPECT_EQ(X509_check_host(made.get(), "m1.example.net", 0, 0, nullptr), 1);
    EXPECT_EQ(X509_check_host(made.get(), "m2.example.net", 0, 0, nullptr), 0);
    EXPECT_EQ(X509_check_ip_asc(made.get(), "10.0.0.2", 0), 1);
    EXPECT_EQ(X509_check_ip_asc(made.get(), "fd00::2", 0), 1);
    EXPECT_TRUE(made.HasKey(key));
    EXPECT_FALSE(made.HasKey(ca.key));
    EXPECT_TRUE(made.IsSignedBy(ca.certificate));

    const CertificateInfo& info = made.info();
    EXPECT_EQ(info.name, "m1");
    EXPECT_EQ(info.role, role);
    EXPECT_FALSE(info.is_ca);
    EXPECT_THAT(info.hosts, ElementsAre("10.0.0.2", "fd00::2", "m1.example.net"));
    EXPECT_EQ(info.not_before, kNow - std::chrono::minutes(5));
    EXPECT_EQ(info.not_after, kNow + 90 * kDay);
    EXPECT_EQ(info.issuer, ca.certificate.info().name);
    EXPECT_EQ(info.fingerprint.size(), 32u * 3 - 1);
    EXPECT_GE(info.serial.size(), 24u);
  }
}

TEST(CertificatesTest, CaSaysThatItIsOneAndTwoDiffer) {
  const Authority first = MakeAuthority();
  const Authority second = MakeAuthority();
  const CertificateInfo& info = first.certificate.info();
  EXPECT_TRUE(info.is_ca);
  EXPECT_EQ(info.role, std::nullopt);
  EXPECT_THAT(info.name, ::testing::MatchesRegex("engram-pool CA [0-9a-f]{8}"));
  EXPECT_EQ(info.not_after, kNow + kCaDays * kDay);
  EXPECT_EQ(X509_get_pathlen(first.certificate.get()), 0);
  EXPECT_NE(info.name, second.certificate.info().name);
  EXPECT_NE(info.serial, second.certificate.info().serial);
  EXPECT_TRUE(first.certificate.IsSignedBy(first.certificate));
  EXPECT_FALSE(first.certificate.IsSignedBy(second.certificate));
}

TEST(CertificatesTest, OtherCaDoesNotVerify) {
  const Authority ca = MakeAuthority();
  const Authority other = MakeAuthority();
  const PrivateKey key = Must(PrivateKey::Generate());
  const Certificate made =
      Must(MakeCertificate(ca.certificate, ca.key, key, {Role::kReader, "r"}, kNow));
  EXPECT_FALSE(made.IsSignedBy(other.certificate));
  EXPECT_NE(VerifyError(made, BundleOf(other.certificate), X509_PURPOSE_SSL_CLIENT, kNow), "");
  // A key that is not the CA's makes no certificate that looks like the CA's.
  const auto refused = MakeCertificate(ca.certificate, other.key, key, {Role::kReader, "r"}, kNow);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kFailedPrecondition);
}

TEST(CertificatesTest, LeafCannotSign) {
  const Authority ca = MakeAuthority();
  PrivateKey key = Must(PrivateKey::Generate());
  Certificate leaf = Must(MakeCertificate(ca.certificate, ca.key, key, {Role::kNode, "m1"}, kNow));
  const auto refused = MakeCertificate(leaf, key, key, {Role::kOperator, "o"}, kNow);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), StatusCode::kFailedPrecondition);
}

TEST(CertificatesTest, NameIsTheHostWhereItCanBeOne) {
  const Authority ca = MakeAuthority();
  const PrivateKey key = Must(PrivateKey::Generate());
  const auto hosts = [&](const std::string& name) {
    return Must(MakeCertificate(ca.certificate, ca.key, key, {Role::kNode, name}, kNow))
        .info()
        .hosts;
  };
  EXPECT_THAT(hosts("m1"), ElementsAre("m1"));
  EXPECT_THAT(hosts("memory_1.local"), ElementsAre("memory_1.local"));
  EXPECT_THAT(hosts("10.0.0.2"), ElementsAre("10.0.0.2"));
  EXPECT_THAT(hosts("17"), ElementsAre());
  EXPECT_THAT(hosts("a..b"), ElementsAre());
}

TEST(CertificatesTest, EndsWithTheCaAtTheLatestAndNotAtAllAfterIt) {
  const Authority ca = MakeAuthority(10);
  const PrivateKey key = Must(PrivateKey::Generate());
  const CertificateRequest request = {Role::kNode, "m1", {}, 90};
  const Certificate made = Must(MakeCertificate(ca.certificate, ca.key, key, request, kNow));
  EXPECT_EQ(made.info().not_after, kNow + 10 * kDay);
  const auto late = MakeCertificate(ca.certificate, ca.key, key, request, kNow + 10 * kDay);
  ASSERT_FALSE(late.has_value());
  EXPECT_EQ(late.error().code(), StatusCode::kFailedPrecondition);
  EXPECT_THAT(late.error().message(), HasSubstr("certs rotate --ca"));
}

TEST(CertificatesTest, TimesBeyond2049AreRead) {
  const Authority ca = MakeAuthority(kCertificateDaysMax);
  EXPECT_EQ(ca.certificate.info().not_after, kNow + kCertificateDaysMax * kDay);
  for (const int days : {0, -1, kCertificateDaysMax + 1}) {
    const auto refused = MakeCaCertificate(ca.key, days, kNow);
    ASSERT_FALSE(refused.has_value()) << days;
    EXPECT_EQ(refused.error().code(), StatusCode::kInvalidArgument);
  }
}

TEST(CertificatesTest, NamesAreFoldersOfTheirOwn) {
  for (const char* name : {"m1", "memory_1", "a.b-c", "_x", "0", "memory-*", "a*"}) {
    EXPECT_TRUE(CheckCertificateName(name).ok()) << name;
  }
  EXPECT_TRUE(CheckCertificateName(std::string(64, 'a')).ok());
  for (const std::string name : {"", ".", "..", "../x", "a/b", "/etc", "ca.crt", "ca.key", "-x",
                                 ".x", "a b", "a\nb", "\xc3\xa4", "*", "*a", "a*b", "a**"}) {
    EXPECT_EQ(CheckCertificateName(name).code(), StatusCode::kInvalidArgument) << name;
  }
  EXPECT_FALSE(CheckCertificateName(std::string(65, 'a')).ok());
  EXPECT_FALSE(CheckCertificateName(std::string("a\0b", 3)).ok());
}

TEST(CertificatesTest, HostsAreNamesOrAddresses) {
  for (const char* host : {"a", "a.b", "*.a.b", "m_1", "10.0.0.1", "::1", "fd00::2", "1a", "1.a"}) {
    EXPECT_TRUE(CheckCertificateHost(host).ok()) << host;
  }
  for (const std::string host : {"", "10.0.0.256", "10.0.0", "[::1]", "a:80", "a..b", ".a", "a.",
                                 "-a", "a-", "*", "a.*.b", "a b", "a/b", "DNS:a", "a,IP:1.2.3.4"}) {
    EXPECT_FALSE(CheckCertificateHost(host).ok()) << host;
  }
  EXPECT_FALSE(CheckCertificateHost(std::string(64, 'a')).ok());
  EXPECT_FALSE(CheckCertificateHost(std::string("10.0.0.1\0x", 10)).ok());
  const Authority ca = MakeAuthority();
  const PrivateKey key = Must(PrivateKey::Generate());
  const std::vector<std::string> many(kCertificateHostsMax + 1, "a");
  EXPECT_FALSE(MakeCertificate(ca.certificate, ca.key, key, {Role::kNode, "m", many}, kNow));
}

TEST(CertificatesTest, RoleIsReadOnlyWhereThereIsExactlyOne) {
  const Authority ca = MakeAuthority();
  const auto role_with = [&](const std::string& organization) {
    return MakeChanged(ca, {Role::kReader, "r"}, [&](X509* x) { AddSubject(x, "O", organization); })
        .info()
        .role;
  };
  EXPECT_EQ(role_with("Example Ltd"), Role::kReader);
  EXPECT_EQ(role_with("engram:operator"), std::nullopt);
  EXPECT_EQ(role_with("engram:king"), std::nullopt);
  EXPECT_EQ(role_with("engram:"), std::nullopt);
  EXPECT_EQ(MakeChanged(ca, {Role::kReader, "r"},
                        [&](X509* x) { X509_set_subject_name(x, X509_get_issuer_name(x)); })
                .info()
                .role,
            std::nullopt);
}

TEST(CertificatesTest, ControlCharactersAreNotShown) {
  const Authority ca = MakeAuthority();
  const Certificate odd = MakeChanged(ca, {Role::kReader, "r"}, [&](X509* x) {
    X509_NAME* const empty = X509_NAME_new();
    X509_set_subject_name(x, empty);
    X509_NAME_free(empty);
    AddSubject(x, "CN", std::string("a\x1b[31m\0b", 8));
  });
  EXPECT_EQ(odd.info().name, "a?[31m?b");
}

TEST(CertificatesTest, OtherKindsOfAlternativeNamesAreShownWithTheirKind) {
  const Authority ca = MakeAuthority();
  const Certificate odd = MakeChanged(ca, {Role::kReader, "17"}, [&](X509* x) {
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "URI:spiffe://a/b,DNS:c");
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
  });
  EXPECT_THAT(odd.info().hosts, ElementsAre("URI:spiffe://a/b", "c"));
}

TEST(CertificatesTest, CutTextsAreErrorsThatNameTheirSource) {
  const Authority ca = MakeAuthority();
  const std::string pem = Must(ca.certificate.Pem());
  const std::string key_pem = Must(ca.key.Pem());
  const auto cut_is_refused = [](const auto& result) {
    ASSERT_FALSE(result.has_value());
    EXPECT_EQ(result.error().code(), StatusCode::kMalformed);
    EXPECT_THAT(result.error().message(), HasSubstr("x.crt"));
  };
  for (size_t cut = 0; cut + 1 < pem.size(); cut += 16) {
    SCOPED_TRACE(cut);
    cut_is_refused(Certificate::FromPem(pem.substr(0, cut), "x.crt"));
    // In a bundle the first is whole: a cut within the second's first line looks like its end.
    const auto two = Certificate::FromPem(pem + pem.substr(0, cut), "x.crt");
    if (two.has_value()) {
      EXPECT_EQ(two->size(), 1u);
    }
    if (cut + 1 < key_pem.size()) {
      cut_is_refused(PrivateKey::FromPem(key_pem.substr(0, cut), "x.crt"));
    }
  }
  EXPECT_EQ(Must(Certificate::FromPem(pem + pem, "x")).size(), 2u);
  cut_is_refused(Certificate::FromPem({}, "x.crt"));
  cut_is_refused(Certificate::FromPem(key_pem, "x.crt"));
  cut_is_refused(PrivateKey::FromPem(pem, "x.crt"));
}

TEST(CertificatesTest, ChangedBytesNeverCrash) {
  const Authority ca = MakeAuthority();
  const PrivateKey key = Must(PrivateKey::Generate());
  const Certificate made = Must(
      MakeCertificate(ca.certificate, ca.key, key, {Role::kNode, "m1", {"a", "10.0.0.1"}}, kNow));
  unsigned char* raw = nullptr;
  const int count = i2d_X509(made.get(), &raw);
  ASSERT_GT(count, 0);
  const std::vector<unsigned char> der(raw, raw + count);
  OPENSSL_free(raw);
  int read = 0;
  for (size_t at = 0; at < der.size(); ++at) {
    for (const unsigned char change : {0x01, 0x80, 0xff}) {
      auto bytes = der;
      bytes[at] ^= change;
      std::string body(bytes.size() * 2, '\0');
      body.resize(
          static_cast<size_t>(EVP_EncodeBlock(reinterpret_cast<unsigned char*>(body.data()),
                                              bytes.data(), static_cast<int>(bytes.size()))));
      std::string pem = "-----BEGIN CERTIFICATE-----\n";
      for (size_t i = 0; i < body.size(); i += 64) pem += body.substr(i, 64) + "\n";
      const auto result = Certificate::FromPem(pem + "-----END CERTIFICATE-----\n", "x");
      if (!result.has_value()) continue;
      ++read;
      EXPECT_FALSE(result->front().IsSignedBy(ca.certificate)) << at;
    }
  }
  EXPECT_GT(read, 0);
}

TEST(CertificatesTest, EncryptedKeyIsRefusedWithoutAskingForAPassword) {
  const PrivateKey key = Must(PrivateKey::Generate());
  BIO* const bio = BIO_new(BIO_s_mem());
  ASSERT_EQ(PEM_write_bio_PKCS8PrivateKey(bio, key.get(), EVP_aes_256_cbc(), "secret", 6, nullptr,
                                          nullptr),
            1);
  char* bytes = nullptr;
  const auto size = BIO_get_mem_data(bio, &bytes);
  const auto read = PrivateKey::FromPem({bytes, static_cast<size_t>(size)}, "x.key");
  BIO_free(bio);
  ASSERT_FALSE(read.has_value());
  EXPECT_THAT(read.error().message(), HasSubstr("encrypted"));
}

}  // namespace
}  // namespace engram
