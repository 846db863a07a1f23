// The pages that every service has: GET /healthz, /readyz and /metrics.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <boost/asio/awaitable.hpp>
#include <prometheus/collectable.h>

#include "engram/http/http_server.h"
#include "engram/security/tls_identity.h"

namespace engram {

struct Readiness {
  bool ready = false;
  std::string detail_json = "{}";  // shown with 200 as with 503
};

// A certificate whose end is told in engram_certificate_expires_seconds.
struct CertificateInUse {
  std::string use;  // "cluster", "etcd"
  std::shared_ptr<TlsIdentity> identity;
};
// The one of `security`, for "cluster"; none in development mode.
[[nodiscard]] std::vector<CertificateInUse> CertificatesOf(const ChannelSecurity& security);

// Answers the three pages; anything else goes to `next`, or gets 404 where `next` is empty.
//   /healthz  200 while the process's event loop runs
//   /readyz   `readiness`, asked on the server's executor: 200 or 503, as JSON
//   /metrics  `metrics`, asked on the server's executor, those of the process itself
//             (engram/metrics/process_metrics.h), and until when `certificates` are valid, in
//             Prometheus' text format
[[nodiscard]] HttpServer::Handler ServicePages(std::shared_ptr<prometheus::Collectable> metrics,
                                               std::function<Readiness()> readiness,
                                               HttpServer::Handler next = nullptr,
                                               std::vector<CertificateInUse> certificates = {});

}  // namespace engram
