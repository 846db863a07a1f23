// The certificate that a peer showed, for as long as its connection lasts.
#pragma once

#include <memory>

#include <boost/asio/ssl/context.hpp>

#include "engram/base/status.h"
#include "engram/security/role.h"
#include "engram/security/tls_identity.h"

// OpenSSL's list of certificates.
struct stack_st_X509;

namespace engram {

// A handshake looks at a certificate once; a connection may outlive it, or its CA.
// Thread-compatible.
class PeerCertificate {
 public:
  // Of a finished handshake, which used `context`. ERRORS: those of PeerOf.
  [[nodiscard]] static Result<PeerCertificate> Of(
      SSL* ssl, std::shared_ptr<boost::asio::ssl::context> context);

  [[nodiscard]] const std::shared_ptr<const PeerIdentity>& identity() const { return identity_; }

  // Whether a handshake would let it in now too. Quick, but for the first time after `ours` has
  // taken new files (a signature is checked then, some 0.1 ms).
  // ERRORS: kPermissionDenied saying why not.
  [[nodiscard]] Status Check(TlsIdentity& ours);

 private:
  struct Free {
    void operator()(stack_st_X509* chain) const;
  };
  PeerCertificate() = default;

  std::shared_ptr<const PeerIdentity> identity_;
  // From the peer's certificate to the CA that it was verified with.
  std::unique_ptr<stack_st_X509, Free> chain_;
  std::shared_ptr<boost::asio::ssl::context> verified_with_;
  bool is_client_ = false;  // the peer
};

}  // namespace engram
