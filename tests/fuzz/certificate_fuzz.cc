// A certificate file of whatever bytes: read as what it is, or refused.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engram/base/check.h"
#include "engram/security/certificates.h"

using namespace engram;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view pem(reinterpret_cast<const char*>(data), size);
  const auto certificates = Certificate::FromPem(pem, "fuzz");
  if (certificates.has_value()) {
    ENGRAM_CHECK(!certificates->empty());
    for (const Certificate& certificate : *certificates) {
      // What is shown to a person moves no cursor.
      for (const char c : certificate.info().name) {
        ENGRAM_CHECK(static_cast<unsigned char>(c) >= 0x20);
      }
      const auto again = Certificate::FromPem(certificate.Pem().value(), "again");
      ENGRAM_CHECK(again.has_value() && again->size() == 1);
      ENGRAM_CHECK(again->front().info().fingerprint == certificate.info().fingerprint);
      (void)certificate.IsSignedBy(certificates->front());
    }
  }
  const auto key = PrivateKey::FromPem(pem, "fuzz");
  if (key.has_value()) ENGRAM_CHECK(key->Pem().has_value());
  return 0;
}
