// What the tests of certificates share: OpenSSL's own verification, and CAs to verify with.
#pragma once

#include <chrono>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include "engram/security/certificates.h"

namespace engram::test {

inline const UnixTime kNow =
    std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
inline constexpr std::chrono::hours kDay{24};

template <typename T>
T Must(Result<T> result) {
  if (!result.has_value()) {
    ADD_FAILURE() << result.error().ToString();
    std::abort();
  }
  return *std::move(result);
}

// Empty: the chain is good for `purpose` at `when`. Otherwise OpenSSL's reason.
inline std::string VerifyError(const Certificate& certificate,
                               const std::vector<Certificate>& bundle, int purpose, UnixTime when) {
  const std::unique_ptr<X509_STORE, decltype(&X509_STORE_free)> store(X509_STORE_new(),
                                                                      X509_STORE_free);
  for (const Certificate& ca : bundle) X509_STORE_add_cert(store.get(), ca.get());
  const std::unique_ptr<X509_STORE_CTX, decltype(&X509_STORE_CTX_free)> context(
      X509_STORE_CTX_new(), X509_STORE_CTX_free);
  X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr);
  X509_STORE_CTX_set_purpose(context.get(), purpose);
  X509_STORE_CTX_set_flags(context.get(), X509_V_FLAG_X509_STRICT);
  X509_STORE_CTX_set_time(context.get(), 0, when.time_since_epoch().count());
  if (X509_verify_cert(context.get()) == 1) return "";
  return X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
}

struct Authority {
  PrivateKey key;
  Certificate certificate;
};

inline Authority MakeAuthority(int days = kCaDays, UnixTime now = kNow) {
  PrivateKey key = Must(PrivateKey::Generate());
  Certificate certificate = Must(MakeCaCertificate(key, days, now));
  return {std::move(key), std::move(certificate)};
}

}  // namespace engram::test
