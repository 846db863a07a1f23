// The folder in which `engramctl certs` keeps a cluster's CA and certificates:
//   ca.crt       the CA's certificate; while it is being replaced, several (a bundle), newest first
//   ca.key       its key: whoever has it makes certificates. Stays where `certs init` was run
//   NAME/        what one process is given as --certs:
//     ca.crt     a copy of the bundle: who this process trusts
//     tls.crt    its certificate
//     tls.key    its key
// A file is replaced as a whole, under a running process that reads it again when it changes. That
// one may see a new certificate beside an old key, for a moment.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "engram/base/status.h"
#include "engram/security/certificates.h"

namespace engram {

inline constexpr const char* kCaFile = "ca.crt";
inline constexpr const char* kCaKeyFile = "ca.key";
inline constexpr const char* kCertificateFile = "tls.crt";
inline constexpr const char* kKeyFile = "tls.key";

// The certificates of a file, in order; at least one.
// ERRORS: kNotFound, kIo, kMalformed, naming the file.
[[nodiscard]] Result<std::vector<Certificate>> ReadCertificates(const std::filesystem::path& file);
// ERRORS: kNotFound, kIo, kMalformed, naming the file.
[[nodiscard]] Result<PrivateKey> ReadPrivateKey(const std::filesystem::path& file);

// The names of the folders in `dir` that have a tls.crt, sorted. ERRORS: kNotFound, kIo.
[[nodiscard]] Result<std::vector<std::string>> CertificateNames(const std::filesystem::path& dir);

// A folder with a CA, opened to change it; one object at a time, on one machine: others wait.
// Thread-compatible.
class CertificateFolder {
 public:
  // Makes the folder where it is missing, and a CA in it. ERRORS: kAlreadyExists (a CA, or a part
  // of one), kIo, kInvalidArgument (days).
  [[nodiscard]] static Result<CertificateFolder> Create(const std::filesystem::path& dir, int days,
                                                        UnixTime now);
  // ERRORS: kNotFound (no folder, no CA, no key: the message says what to do), kIo, kMalformed,
  // kFailedPrecondition (the key is of none of the CAs).
  [[nodiscard]] static Result<CertificateFolder> Open(const std::filesystem::path& dir);

  // The CA that signs: the one that ca.key belongs to.
  [[nodiscard]] const Certificate& ca() const { return bundle_[signer_]; }
  // All CAs that are trusted.
  [[nodiscard]] const std::vector<Certificate>& bundle() const { return bundle_; }

  // Makes the folder NAME. ERRORS: kAlreadyExists, kIo, and those of MakeCertificate.
  [[nodiscard]] Result<Certificate> Issue(const CertificateRequest& request, UnixTime now);

  // A new key and certificate with the role and hosts of the present one, signed by ca(). The files
  // keep their owner, group and access.
  // ERRORS: kNotFound, kMalformed, kIo, kFailedPrecondition (the present one is not of this folder:
  // it names somebody else, or no CA of the bundle signed it).
  [[nodiscard]] Result<Certificate> Reissue(const std::string& name, int days, UnixTime now);

  // Makes a CA that signs from now on, and writes it into every bundle, before those that are
  // there: old and new certificates are both good. ERRORS: kIo and others, after which the old CA
  // signs on and this may be called again.
  [[nodiscard]] Status RotateCa(int days, UnixTime now);
  // Leaves only ca() in every bundle. Gives those that are dropped.
  // ERRORS: kFailedPrecondition (a certificate in the folder is not signed by ca(): nothing is
  // dropped), kIo, kMalformed.
  [[nodiscard]] Result<std::vector<Certificate>> DropOldCas();

 private:
  struct Unlock {
    void operator()(const int* descriptor) const;
  };
  using Lock = std::unique_ptr<const int, Unlock>;

  CertificateFolder(std::filesystem::path dir, Lock lock, PrivateKey ca_key)
      : dir_(std::move(dir)), lock_(std::move(lock)), ca_key_(std::move(ca_key)) {}
  [[nodiscard]] static Result<Lock> LockFolder(const std::filesystem::path& dir);
  // ca.crt first, then those of all names.
  [[nodiscard]] Status WriteBundles(const std::string& bundle_pem) const;
  [[nodiscard]] Result<Certificate> MakeAndWrite(const CertificateRequest& request,
                                                 UnixTime now) const;

  std::filesystem::path dir_;
  Lock lock_;
  PrivateKey ca_key_;
  std::vector<Certificate> bundle_;  // at least one
  size_t signer_ = 0;                // of bundle_
};

}  // namespace engram
