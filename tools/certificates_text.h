// Certificates for people and for programs.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "engram/security/certificates.h"

namespace engram {

// "2026-11-03", UTC.
[[nodiscard]] std::string DateText(UnixTime time);
// "89 days", "5 hours", "expired 3 days ago", "not before 2026-11-03".
[[nodiscard]] std::string LeftText(const CertificateInfo& info, UnixTime now);

// A certificate and where it was found.
struct FoundCertificate {
  std::string file;
  CertificateInfo info;
  // A tls.crt whose issuer is not in the ca.crt beside it.
  bool issuer_unknown = false;
};

// One table.
[[nodiscard]] std::string CertificatesText(const std::vector<FoundCertificate>& found,
                                           UnixTime now);
// What needs somebody's attention, with the fix: expired, near its end, of no use.
[[nodiscard]] std::vector<std::string> CertificateWarnings(
    const std::vector<FoundCertificate>& found, UnixTime now);

[[nodiscard]] nlohmann::ordered_json CertificateJson(const CertificateInfo& info,
                                                     const std::string& file, UnixTime now);

}  // namespace engram
