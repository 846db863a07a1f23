// A key as OpenSSH knows it, for the ranks of a model that are on several hosts
// (deploy/images/ranks): all have one key, as hosts and as users.
#pragma once

#include <string>

#include "engram/base/status.h"
#include "engram/security/certificates.h"

namespace engram {

// As `kubernetes.io/ssh-auth` and deploy/images/ranks name them.
inline constexpr const char* kSshKeyFile = "ssh-privatekey";
inline constexpr const char* kSshAuthorizedKeysFile = "authorized_keys";
inline constexpr const char* kSshKnownHostsFile = "known_hosts";
// The name that every host goes by: their keys are one, their real names come and go.
inline constexpr const char* kSshHostAlias = "engram-ranks";

// The public half, as in authorized_keys: "ecdsa-sha2-nistp256 BASE64".
// ERRORS: kInvalidArgument (not a key on the curve P-256), kInternal.
[[nodiscard]] Result<std::string> SshPublicKey(const PrivateKey& key);

}  // namespace engram
