// Who this process is to others, and how it knows them: mutual TLS 1.3 with certificates of one CA.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <boost/asio/ssl/context.hpp>

#include "engram/base/status.h"
#include "engram/security/role.h"

namespace engram {

// Thread-safe.
class TlsIdentity {
 public:
  // `folder` has ca.crt (one CA or several), tls.crt and tls.key in PEM, as Kubernetes and
  // cert-manager lay them out and `engramctl certs issue` does. ERRORS: kIo (a file cannot be
  // read), kInvalidArgument (it is damaged, the key is another certificate's, no role, expired),
  // naming the file and what to do.
  [[nodiscard]] static Result<std::shared_ptr<TlsIdentity>> Load(std::filesystem::path folder);
  // The same towards programs that are not ours and ask for no role, such as etcd: the certificate
  // needs none, and own() says nothing.
  [[nodiscard]] static Result<std::shared_ptr<TlsIdentity>> LoadWithoutRole(
      std::filesystem::path folder);
  virtual ~TlsIdentity() = default;

  // What the next handshake uses, on either side. The files are looked at again where a second has
  // passed: changed ones are taken, so certificates are replaced without a restart; where they
  // cannot be taken the last good ones stay, with a line in the log.
  // Both sides must show a certificate of the CA: set_verify_mode on a stream to ask for less.
  [[nodiscard]] virtual std::shared_ptr<boost::asio::ssl::context> Context() = 0;
  // As the files were last taken.
  [[nodiscard]] virtual PeerIdentity own() const = 0;
  // Until when the own certificate is valid, in Unix seconds. Looks at the files as Context does.
  [[nodiscard]] virtual int64_t ExpiresAt() = 0;
  // Seconds until the own certificate is no longer valid; negative: it is not.
  [[nodiscard]] virtual int64_t SecondsLeft() const = 0;
};

// The peer of a finished handshake. ERRORS: kPermissionDenied (it showed no certificate, or one
// without exactly one role or without a name).
[[nodiscard]] Result<PeerIdentity> PeerOf(SSL* ssl);

// How a process talks to others.
struct ChannelSecurity {
  // Null: development mode. No TLS, and nobody is asked who they are, so on loopback only,
  std::shared_ptr<TlsIdentity> identity;
  // unless this is set: then anywhere.
  bool insecure = false;

  // For an address listened on or connected to. ERRORS: kInvalidArgument saying what to give.
  [[nodiscard]] Status CheckAddress(bool is_loopback, const std::string& address) const;
};

}  // namespace engram
