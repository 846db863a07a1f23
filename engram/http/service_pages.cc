#include "engram/http/service_pages.h"

#include <utility>
#include <vector>

#include <prometheus/metric_family.h>
#include <prometheus/text_serializer.h>

#include "engram/metrics/process_metrics.h"

namespace engram {
namespace {

struct Pages {
  std::shared_ptr<prometheus::Collectable> metrics;
  std::function<Readiness()> readiness;
  HttpServer::Handler next;
  std::vector<CertificateInUse> certificates;

  boost::asio::awaitable<void> Answer(const HttpRequest& request, HttpResponder& responder) const {
    const bool get = request.method == "GET" || request.method == "HEAD";
    if (get && request.path == "/healthz") {
      (void)co_await responder.Respond(200, "text/plain", "ok\n");
    } else if (get && request.path == "/readyz") {
      Readiness state = readiness();
      (void)co_await responder.Respond(state.ready ? 200 : 503, "application/json",
                                       std::move(state.detail_json) + "\n");
    } else if (get && request.path == "/metrics") {
      std::vector<prometheus::MetricFamily> families = metrics->Collect();
      FamilyWriter out(&families);
      WriteProcessMetrics(&out);
      for (const auto& [use, identity] : certificates) {
        out.Gauge("engram_certificate_expires_seconds",
                  "Until when this process's certificate is valid, since 1970.",
                  identity->ExpiresAt(), {{"use", use}});
      }
      (void)co_await responder.Respond(200, "text/plain; version=0.0.4; charset=utf-8",
                                       prometheus::TextSerializer().Serialize(families));
    } else if (next) {
      co_await next(request, responder);
    }
  }
};

}  // namespace

std::vector<CertificateInUse> CertificatesOf(const ChannelSecurity& security) {
  if (security.identity == nullptr) return {};
  return {{"cluster", security.identity}};
}

HttpServer::Handler ServicePages(std::shared_ptr<prometheus::Collectable> metrics,
                                 std::function<Readiness()> readiness, HttpServer::Handler next,
                                 std::vector<CertificateInUse> certificates) {
  // Shared, so that the handler's copies and a suspended Answer see the same object.
  const auto pages = std::make_shared<const Pages>(
      Pages{std::move(metrics), std::move(readiness), std::move(next), std::move(certificates)});
  return [pages](const HttpRequest& request, HttpResponder& responder) {
    return pages->Answer(request, responder);
  };
}

}  // namespace engram
