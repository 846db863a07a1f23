// Certificates for tests, as engramctl certs makes them.
#pragma once

#include <filesystem>
#include <string>

#include "engram/security/certificates.h"
#include "engram/security/tls_identity.h"

namespace engram::test {

// A CA of its own. Aborts the test program where something cannot be made.
class TestCa {
 public:
  TestCa();

  // Writes ca.crt, tls.crt and tls.key into `folder`, in place of what is there.
  void Issue(const std::filesystem::path& folder, Role role, const std::string& name,
             int days = kCertificateDays) const;
  // The same, loaded.
  [[nodiscard]] ChannelSecurity Security(const std::filesystem::path& folder, Role role,
                                         const std::string& name) const;

 private:
  PrivateKey key_;
  Certificate certificate_;
};

}  // namespace engram::test
