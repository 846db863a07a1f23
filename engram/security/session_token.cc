#include "engram/security/session_token.h"

#include <algorithm>
#include <cstring>
#include <ctime>

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

namespace engram {
namespace {

// magic, u64 key, u64 version, i64 lapses, u16 length and client, u16 length and node, 32 bytes of
// HMAC-SHA-256 over all before; little-endian.
constexpr std::string_view kMagic = "ENGT1";
constexpr size_t kMacBytes = 32;
constexpr size_t kNameBytesMax = 1024;
constexpr size_t kTokenBytesMax = 4096;

template <typename T>
void Put(T value, std::string* out) {
  for (size_t i = 0; i < sizeof(T); ++i) {
    out->push_back(static_cast<char>(static_cast<uint64_t>(value) >> (8 * i)));
  }
}
void PutText(const std::string& text, std::string* out) {
  Put(static_cast<uint16_t>(text.size()), out);
  *out += text;
}

// Takes from the front of what is left; false, and nothing is to be used, where it is too short.
class Taker {
 public:
  explicit Taker(std::string_view bytes) : left_(bytes) {}
  template <typename T>
  bool Take(T* value) {
    if (left_.size() < sizeof(T)) return false;
    uint64_t sum = 0;
    for (size_t i = 0; i < sizeof(T); ++i) {
      sum |= uint64_t{static_cast<unsigned char>(left_[i])} << (8 * i);
    }
    *value = static_cast<T>(sum);
    left_.remove_prefix(sizeof(T));
    return true;
  }
  bool TakeText(std::string* text) {
    uint16_t size = 0;
    if (!Take(&size) || size > kNameBytesMax || left_.size() < size) return false;
    *text = left_.substr(0, size);
    left_.remove_prefix(size);
    return true;
  }
  [[nodiscard]] bool done() const { return left_.empty(); }

 private:
  std::string_view left_;
};

using Mac = std::array<unsigned char, kMacBytes>;

Mac MacOf(const TokenKey& key, std::string_view text) {
  Mac mac{};
  unsigned int size = 0;
  (void)HMAC(EVP_sha256(), key.secret.data(), static_cast<int>(key.secret.size()),
             reinterpret_cast<const unsigned char*>(text.data()), text.size(), mac.data(), &size);
  return mac;
}

tl::unexpected<Status> Denied(const std::string& why) {
  return Error(StatusCode::kPermissionDenied, "the session token " + why);
}

}  // namespace

UnixSeconds UnixNow() { return UnixSeconds(std::time(nullptr)); }

Result<TokenKey> TokenKey::Make(UnixSeconds good_until) {
  TokenKey key;
  key.good_until = good_until;
  do {
    if (RAND_bytes(reinterpret_cast<unsigned char*>(&key.id), sizeof(key.id)) != 1 ||
        RAND_bytes(reinterpret_cast<unsigned char*>(key.secret.data()),
                   static_cast<int>(key.secret.size())) != 1) {
      return Error(StatusCode::kInternal, "OpenSSL has no random numbers for a token key");
    }
  } while (key.id == 0);
  return key;
}

void TokenKeys::Add(const TokenKey& key, UnixSeconds now) {
  const std::lock_guard lock(mutex_);
  std::erase_if(keys_, [&](const TokenKey& k) { return k.good_until + kTokenClockSkew < now; });
  if (key.id == 0 || key.good_until <= now) return;
  if (std::any_of(keys_.begin(), keys_.end(), [&](const TokenKey& k) { return k.id == key.id; })) {
    return;
  }
  const auto place = std::find_if(keys_.begin(), keys_.end(),
                                  [&](const TokenKey& k) { return k.good_until < key.good_until; });
  keys_.insert(place, key);
}

std::vector<TokenKey> TokenKeys::All() const {
  const std::lock_guard lock(mutex_);
  return keys_;
}

const TokenKey& TokenKeys::Signer(UnixSeconds lapses) const {
  // The oldest that lives as long: the newest may not be known everywhere yet.
  const auto shorter = std::find_if(keys_.begin(), keys_.end(),
                                    [&](const TokenKey& k) { return k.good_until < lapses; });
  return shorter == keys_.begin() ? keys_.front() : *std::prev(shorter);
}

UnixSeconds TokenKeys::SignerGoodUntil(UnixSeconds lapses) const {
  const std::lock_guard lock(mutex_);
  return keys_.empty() ? UnixSeconds(0) : Signer(lapses).good_until;
}

Result<std::string> TokenKeys::Sign(TokenClaims claims, UnixSeconds now) const {
  const std::lock_guard lock(mutex_);
  if (keys_.empty() || keys_.front().good_until <= now) {
    return Error(StatusCode::kUnavailable, "there is no key for session tokens yet");
  }
  if (claims.client.size() > kNameBytesMax || claims.node.size() > kNameBytesMax) {
    return Error(StatusCode::kInvalidArgument, "a name of more than 1,024 bytes in a token");
  }
  const TokenKey& key = Signer(claims.lapses);
  claims.lapses = std::min(claims.lapses, key.good_until);
  std::string token(kMagic);
  Put(key.id, &token);
  Put(claims.version.value(), &token);
  Put(claims.lapses.count(), &token);
  PutText(claims.client, &token);
  PutText(claims.node, &token);
  const Mac mac = MacOf(key, token);
  token.append(reinterpret_cast<const char*>(mac.data()), mac.size());
  return token;
}

Result<TokenClaims> TokenKeys::Verify(std::string_view token, std::string_view client,
                                      TableVersion version, std::string_view node,
                                      UnixSeconds now) const {
  if (token.empty()) return Denied("is missing: the coordinator gives one (directory.GetTokens)");
  if (token.size() > kTokenBytesMax || token.size() < kMagic.size() + kMacBytes ||
      !token.starts_with(kMagic)) {
    return Denied("is none");
  }
  const std::string_view text = token.substr(0, token.size() - kMacBytes);
  Taker taker(text.substr(kMagic.size()));
  uint64_t key_id = 0;
  uint64_t claimed_version = 0;
  int64_t lapses = 0;
  TokenClaims claims;
  if (!taker.Take(&key_id) || !taker.Take(&claimed_version) || !taker.Take(&lapses) ||
      !taker.TakeText(&claims.client) || !taker.TakeText(&claims.node) || !taker.done()) {
    return Denied("is damaged");
  }
  claims.version = TableVersion(claimed_version);
  claims.lapses = UnixSeconds(lapses);
  {
    const std::lock_guard lock(mutex_);
    const auto key =
        std::find_if(keys_.begin(), keys_.end(), [&](const TokenKey& k) { return k.id == key_id; });
    if (key == keys_.end()) {
      return Error(StatusCode::kUnavailable,
                   "this node does not know the key of the session token: it comes with a "
                   "heartbeat, or the token is too old");
    }
    const Mac mac = MacOf(*key, text);
    if (CRYPTO_memcmp(mac.data(), token.data() + text.size(), kMacBytes) != 0) {
      return Denied("is forged or damaged");
    }
    // A key's own end is part of what the coordinator said.
    if (claims.lapses > key->good_until) return Denied("outlives its key");
  }
  if (claims.lapses + kTokenClockSkew <= now) return Denied("has lapsed: ask for a new one");
  if (claims.client != client) return Denied("is somebody else's");
  if (claims.version != version) return Denied("is for another version");
  if (claims.node != node) return Denied("is for another node, '" + claims.node + "'");
  return claims;
}

}  // namespace engram
