// What lets a reader open a session with a memory node: the coordinator's word that it may, for a
// while (docs/formats/session.md).
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "engram/base/status.h"
#include "engram/base/strong_id.h"

namespace engram {

// Wall-clock time, which coordinators and nodes keep alike within kTokenClockSkew.
using UnixSeconds = std::chrono::seconds;
inline constexpr UnixSeconds kTokenClockSkew{5};
[[nodiscard]] UnixSeconds UnixNow();

// Known to coordinators and nodes alone; nodes are told over the control plane.
struct TokenKey {
  uint64_t id = 0;  // random, not 0
  std::array<std::byte, 32> secret{};
  UnixSeconds good_until{};  // no token that it signs is good for longer
  // ERRORS: kInternal (no randomness).
  [[nodiscard]] static Result<TokenKey> Make(UnixSeconds good_until);
};

// Who may read what where, and until when.
struct TokenClaims {
  std::string client;  // the name in its certificate
  TableVersion version;
  std::string node;  // its data address, as readers are told it
  UnixSeconds lapses{};
  friend bool operator==(const TokenClaims&, const TokenClaims&) = default;
};

// The keys that are good now. Thread-safe.
class TokenKeys {
 public:
  // Keys that are known already, and those that are over, are left out.
  void Add(const TokenKey& key, UnixSeconds now);
  [[nodiscard]] std::vector<TokenKey> All() const;

  // Signs with the oldest key that is good for as long as the claims; where none is, with the one
  // that is good for longest, and until its end.
  // ERRORS: kUnavailable (there is none).
  [[nodiscard]] Result<std::string> Sign(TokenClaims claims, UnixSeconds now) const;
  // Until when the key is good that signs claims which lapse then; 0 = there is none.
  [[nodiscard]] UnixSeconds SignerGoodUntil(UnixSeconds lapses) const;
  // The claims of a token that is good here and now.
  // ERRORS: kPermissionDenied (forged, damaged, lapsed, another's), kUnavailable (no key is known
  // yet, or not the one that signed: ask again soon).
  [[nodiscard]] Result<TokenClaims> Verify(std::string_view token, std::string_view client,
                                           TableVersion version, std::string_view node,
                                           UnixSeconds now) const;

 private:
  // With mutex_ held; there is a key.
  [[nodiscard]] const TokenKey& Signer(UnixSeconds lapses) const;

  mutable std::mutex mutex_;
  std::vector<TokenKey> keys_;  // guarded by mutex_; the one that is good for longest first
};

}  // namespace engram
