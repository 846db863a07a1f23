#include "tests/support/test_certificates.h"

#include <chrono>
#include <fstream>
#include <system_error>

#include "engram/base/check.h"

namespace engram::test {
namespace {

// By a rename, as certificates are replaced under running programs.
void Replace(const std::filesystem::path& file, const std::string& text) {
  const std::filesystem::path fresh = file.string() + ".new";
  std::ofstream(fresh) << text;
  std::filesystem::rename(fresh, file);
}

}  // namespace

UnixTime UnixNow() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

TestCa::TestCa() : TestCa(UnixNow()) {}
TestCa::TestCa(UnixTime made)
    : key_(PrivateKey::Generate().value()),
      certificate_(MakeCaCertificate(key_, kCaDays, made).value()) {}

void TestCa::Issue(const std::filesystem::path& folder, Role role, const std::string& name,
                   int days) const {
  CertificateRequest request;
  request.role = role;
  request.name = name;
  request.days = days;
  Issue(folder, request, UnixNow());
}

void TestCa::Issue(const std::filesystem::path& folder, const CertificateRequest& request,
                   UnixTime made) const {
  std::filesystem::create_directories(folder);
  const PrivateKey key = PrivateKey::Generate().value();
  const Certificate certificate = MakeCertificate(certificate_, key_, key, request, made).value();
  Replace(folder / "tls.key", key.Pem().value());
  Replace(folder / "tls.crt", certificate.Pem().value());
  Replace(folder / "ca.crt", certificate_.Pem().value());
}

ChannelSecurity TestCa::Security(const std::filesystem::path& folder, Role role,
                                 const std::string& name) const {
  Issue(folder, role, name);
  auto identity = TlsIdentity::Load(folder);
  ENGRAM_CHECK(identity.has_value());
  ChannelSecurity security;
  security.identity = *std::move(identity);
  return security;
}

}  // namespace engram::test
