// Calls to a Kubernetes API server, as a pod with a service account makes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "engram/base/status.h"

namespace engram {

struct KubernetesApi {
  std::string host;  // a name or an address, without brackets
  uint16_t port = 443;
  // With `token`, which is read anew for each call, `ca.crt` and `namespace`.
  std::filesystem::path account;
  std::chrono::milliseconds timeout{10000};
};

struct KubernetesReply {
  unsigned status = 0;
  nlohmann::json body;  // null where it is not JSON

  // What the server says against it: "message", or "" without one.
  [[nodiscard]] std::string Message() const;
};

// One call over TLS, whose certificate must be of `ca.crt` and for the host. Blocks. `body` null:
// none. Any thread. ERRORS: kIo (a file of the account), kUnavailable (nothing answers, or not in
// HTTP), kPermissionDenied (its certificate), kDeadlineExceeded; a status of HTTP is no error.
[[nodiscard]] Result<KubernetesReply> CallKubernetes(const KubernetesApi& api,
                                                     const std::string& method,
                                                     const std::string& path,
                                                     const nlohmann::json& body = nullptr);

// The namespace that the account is of. ERRORS: kIo.
[[nodiscard]] Result<std::string> NamespaceOf(const KubernetesApi& api);

}  // namespace engram
