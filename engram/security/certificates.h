// Certificates: making them and reading what they say. In memory; certificate_folder.h keeps files.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/security/role.h"

// OpenSSL's X509 and EVP_PKEY.
struct x509_st;
struct evp_pkey_st;

namespace engram {

using UnixTime = std::chrono::sys_seconds;

inline constexpr int kCaDays = 3650;
inline constexpr int kCertificateDays = 90;
inline constexpr int kCertificateDaysMax = 36500;
// X.509 has no longer common names.
inline constexpr size_t kCertificateNameBytesMax = 64;
inline constexpr size_t kCertificateHostsMax = 64;

// A name is also a folder's: letters, digits, '.', '-' and '_', the first a letter, a digit or '_';
// then '*' where it is a prefix of several memory nodes' names.
// ERRORS: kInvalidArgument.
[[nodiscard]] Status CheckCertificateName(std::string_view name);
// An IP address, or a host name, whose first label may be "*". ERRORS: kInvalidArgument.
[[nodiscard]] Status CheckCertificateHost(std::string_view host);

// ECDSA P-256 where it is made here. Thread-compatible.
class PrivateKey {
 public:
  // ERRORS: kInternal (no randomness).
  [[nodiscard]] static Result<PrivateKey> Generate();
  // `source` names the bytes' origin in errors. ERRORS: kMalformed (no key, damaged, encrypted).
  [[nodiscard]] static Result<PrivateKey> FromPem(std::string_view pem, const std::string& source);

  // PKCS#8, not encrypted.
  [[nodiscard]] Result<std::string> Pem() const;
  [[nodiscard]] evp_pkey_st* get() const { return key_.get(); }

 private:
  struct Free {
    void operator()(evp_pkey_st* key) const;
  };
  explicit PrivateKey(evp_pkey_st* key) : key_(key) {}
  std::unique_ptr<evp_pkey_st, Free> key_;
};

// What a certificate says. Texts come from the file: control characters are shown as '?'.
struct CertificateInfo {
  std::string name;          // the subject's common name; empty: none
  std::optional<Role> role;  // none: no role, several, or an unknown one
  bool is_ca = false;
  UnixTime not_before;
  UnixTime not_after;  // valid until then
  // Subject alternative names: DNS names and addresses as they are, others as "KIND:text".
  std::vector<std::string> hosts;
  std::string issuer;       // its common name
  std::string serial;       // hexadecimal
  std::string fingerprint;  // SHA-256, "AB:CD:..." as openssl x509 -fingerprint shows it
};

// Immutable. Thread-compatible.
class Certificate {
 public:
  // All certificates of a PEM text, in order; at least one. `source` names the text's origin in
  // errors. ERRORS: kMalformed.
  [[nodiscard]] static Result<std::vector<Certificate>> FromPem(std::string_view pem,
                                                                const std::string& source);
  // Takes `certificate` over. ERRORS: kMalformed.
  [[nodiscard]] static Result<Certificate> FromX509(x509_st* certificate,
                                                    const std::string& source);

  [[nodiscard]] const CertificateInfo& info() const { return info_; }
  [[nodiscard]] Result<std::string> Pem() const;
  // Whether `ca` issued this one: names and key ids fit, and the signature is right. Not whether
  // either is valid now.
  [[nodiscard]] bool IsSignedBy(const Certificate& ca) const;
  [[nodiscard]] bool HasKey(const PrivateKey& key) const;
  [[nodiscard]] x509_st* get() const { return certificate_.get(); }

 private:
  struct Free {
    void operator()(x509_st* certificate) const;
  };
  explicit Certificate(x509_st* certificate) : certificate_(certificate) {}
  std::unique_ptr<x509_st, Free> certificate_;
  CertificateInfo info_;
};

// Self-signed; may sign certificates, but no further CA. Its name "engram-pool CA 1f3a90c2" is
// random, so that two CAs in one bundle are told apart.
// ERRORS: kInvalidArgument (days), kInternal.
[[nodiscard]] Result<Certificate> MakeCaCertificate(const PrivateKey& key, int days, UnixTime now);

// Who a certificate is for.
struct CertificateRequest {
  Role role = Role::kReader;
  std::string name;
  // Under which others reach it. Empty: the name, where it can be a host's.
  std::vector<std::string> hosts;
  int days = kCertificateDays;
};
// For both ends of mutual TLS. It ends with the CA at the latest.
// ERRORS: kInvalidArgument (name, hosts, days; a prefix of another role than node),
// kFailedPrecondition (the CA is not valid now, or `ca_key` is not its key), kInternal.
[[nodiscard]] Result<Certificate> MakeCertificate(const Certificate& ca, const PrivateKey& ca_key,
                                                  const PrivateKey& key,
                                                  const CertificateRequest& request, UnixTime now);

}  // namespace engram
