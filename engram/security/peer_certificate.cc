#include "engram/security/peer_certificate.h"

#include <string>
#include <utility>

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

namespace engram {
namespace {

namespace ssl = boost::asio::ssl;

struct FreeStoreContext {
  void operator()(X509_STORE_CTX* context) const { X509_STORE_CTX_free(context); }
};

// Empty where the chain's first certificate is one of a CA of `trusted`; else why it is not.
std::string WhyNot(SSL_CTX* trusted, STACK_OF(X509) * chain, bool is_client) {
  const std::unique_ptr<X509_STORE_CTX, FreeStoreContext> verify(X509_STORE_CTX_new());
  std::string why = "out of memory";
  if (verify != nullptr &&
      X509_STORE_CTX_init(verify.get(), SSL_CTX_get_cert_store(trusted), sk_X509_value(chain, 0),
                          chain) == 1 &&
      X509_STORE_CTX_set_default(verify.get(), is_client ? "ssl_client" : "ssl_server") == 1) {
    const bool good = X509_verify_cert(verify.get()) == 1;
    why = good ? "" : X509_verify_cert_error_string(X509_STORE_CTX_get_error(verify.get()));
  }
  ERR_clear_error();
  return why;
}

}  // namespace

void PeerCertificate::Free::operator()(stack_st_X509* chain) const {
  sk_X509_pop_free(chain, X509_free);
}

Result<PeerCertificate> PeerCertificate::Of(SSL* ssl, std::shared_ptr<ssl::context> context) {
  ENGRAM_ASSIGN_OR_RETURN(PeerIdentity identity, PeerOf(ssl));
  PeerCertificate peer;
  peer.chain_.reset(X509_chain_up_ref(SSL_get0_verified_chain(ssl)));
  if (peer.chain_ == nullptr || sk_X509_num(peer.chain_.get()) == 0) {
    return Error(StatusCode::kPermissionDenied, "the peer's certificate was not verified");
  }
  peer.identity_ = std::make_shared<const PeerIdentity>(std::move(identity));
  peer.verified_with_ = std::move(context);
  peer.is_client_ = SSL_is_server(ssl) == 1;
  return peer;
}

Status PeerCertificate::Check(TlsIdentity& ours) {
  auto context = ours.Context();
  if (context != verified_with_) {
    const std::string why = WhyNot(context->native_handle(), chain_.get(), is_client_);
    if (!why.empty()) {
      return {StatusCode::kPermissionDenied, "the certificate of '" + identity_->name +
                                                 "' is not one of our CA any more (" + why +
                                                 "): connect again with one that is"};
    }
    verified_with_ = std::move(context);
  }
  for (int i = 0; i < sk_X509_num(chain_.get()); ++i) {
    if (X509_cmp_current_time(X509_get0_notAfter(sk_X509_value(chain_.get(), i))) > 0) continue;
    return {StatusCode::kPermissionDenied,
            "the certificate of '" + identity_->name +
                (i == 0 ? "' has expired" : "' is of a CA that has expired") +
                ": connect again with a new one (engramctl certs rotate)"};
  }
  return {};
}

}  // namespace engram
