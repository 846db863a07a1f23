// Certificates for tests, as engramctl certs makes them.
#pragma once

#include <filesystem>
#include <string>

#include "engram/security/certificates.h"
#include "engram/security/tls_identity.h"

namespace engram::test {

[[nodiscard]] UnixTime UnixNow();

// A CA of its own. Aborts the test program where something cannot be made.
class TestCa {
 public:
  TestCa();
  // Made then, such as a while ago.
  explicit TestCa(UnixTime made);

  // Writes ca.crt, tls.crt and tls.key into `folder`, in place of what is there.
  void Issue(const std::filesystem::path& folder, Role role, const std::string& name,
             int days = kCertificateDays) const;
  // The same, for these hosts, made then. Whether it is valid now is not looked at.
  void Issue(const std::filesystem::path& folder, const CertificateRequest& request,
             UnixTime made) const;
  // The first, loaded.
  [[nodiscard]] ChannelSecurity Security(const std::filesystem::path& folder, Role role,
                                         const std::string& name) const;

 private:
  PrivateKey key_;
  Certificate certificate_;
};

}  // namespace engram::test
