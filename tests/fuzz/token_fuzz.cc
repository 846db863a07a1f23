// A session token's bytes: whatever they are, only what the key signed is believed.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "engram/base/check.h"
#include "engram/security/session_token.h"

using namespace engram;

namespace {

constexpr UnixSeconds kNow{1'800'000'000};

// Of the seed corpus: a node's key that everybody here knows.
const TokenKeys& Keys() {
  static const TokenKeys* const keys = [] {
    TokenKey key;
    key.id = 0x1122334455667788;
    std::memset(key.secret.data(), 7, key.secret.size());
    key.good_until = kNow + UnixSeconds(10'000);
    auto* made = new TokenKeys;
    made->Add(key, kNow);
    return made;
  }();
  return *keys;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string token(reinterpret_cast<const char*>(data), size);
  const auto claims = Keys().Verify(token, "gpu-1", TableVersion(3), "10.0.0.1:7100", kNow);
  if (!claims.has_value()) return 0;
  ENGRAM_CHECK(claims->client == "gpu-1" && claims->node == "10.0.0.1:7100");
  ENGRAM_CHECK(claims->version == TableVersion(3));
  ENGRAM_CHECK(claims->lapses + kTokenClockSkew > kNow);
  // Signing is deterministic: these are the bytes that the key gives for these claims.
  ENGRAM_CHECK(Keys().Sign(*claims, kNow).value() == token);
  return 0;
}
