#include "tests/support/test_certificates.h"

#include <chrono>
#include <fstream>
#include <system_error>

#include "engram/base/check.h"

namespace engram::test {
namespace {

UnixTime Now() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

// By a rename, as certificates are replaced under running programs.
void Replace(const std::filesystem::path& file, const std::string& text) {
  const std::filesystem::path fresh = file.string() + ".new";
  std::ofstream(fresh) << text;
  std::filesystem::rename(fresh, file);
}

}  // namespace

TestCa::TestCa()
    : key_(PrivateKey::Generate().value()),
      certificate_(MakeCaCertificate(key_, kCaDays, Now()).value()) {}

void TestCa::Issue(const std::filesystem::path& folder, Role role, const std::string& name,
                   int days) const {
  std::filesystem::create_directories(folder);
  const PrivateKey key = PrivateKey::Generate().value();
  CertificateRequest request;
  request.role = role;
  request.name = name;
  request.days = days;
  const Certificate made = MakeCertificate(certificate_, key_, key, request, Now()).value();
  Replace(folder / "tls.key", key.Pem().value());
  Replace(folder / "tls.crt", made.Pem().value());
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
