// A memory node's HTTP pages: readiness, metrics, and (only where enabled) test hooks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <prometheus/collectable.h>

#include "engram/base/strong_id.h"
#include "engram/http/http_server.h"
#include "engram/http/service_pages.h"
#include "engram/transport/row_server.h"
#include "shard_server/coordinator_agent.h"
#include "shard_server/memory_node.h"

namespace engram {

// Where the pages' figures come from. All must outlive the pages.
struct NodeSources {
  std::string id;
  std::string zone;
  Incarnation incarnation;
  const RowServer* server = nullptr;
  MemoryNode* node = nullptr;
  const CoordinatorAgent* agent = nullptr;
  std::vector<CertificateInUse> certificates = {};
};

// Ready: the coordinator was heard once, and every slot that it assigned is loaded and checked. A
// node that lost its coordinator stays ready: it serves. The detail says what is missing.
[[nodiscard]] Readiness NodeReadiness(const NodeSources& sources);

// Prometheus' view of a node, made when it is asked for. Collect on the agent's executor.
class NodeMetrics final : public prometheus::Collectable {
 public:
  explicit NodeMetrics(NodeSources sources) : sources_(std::move(sources)) {}
  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  NodeSources sources_;
};

// POST /test/flip_byte?version=V&slot=S&row=R&byte=B damages one stored byte (row within the slot,
// byte within the stored row); POST /test/pause_loading?paused=0|1. 200, or 400/404 with the
// reason.
[[nodiscard]] HttpServer::Handler TestHooks(MemoryNode* node);

// Runs on the agent's executor.
[[nodiscard]] HttpServer::Handler NodePages(const NodeSources& sources, bool enable_test_hooks);

}  // namespace engram
