// What a coordinator tells Prometheus.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <prometheus/collectable.h>
#include <prometheus/counter.h>
#include <prometheus/registry.h>

#include "coordinator/held_calls.h"
#include "engram/base/status.h"
#include "proto/admin.pb.h"

namespace engram {

// Counts calls, and tells the cluster's figures as they are when it is asked. Only the leader tells
// those: what a follower knows is old, and it does not know what nodes hold. Not thread-safe: used
// on the coordinator's executor.
class CoordinatorMetrics final : public prometheus::Collectable {
 public:
  CoordinatorMetrics(std::function<proto::GetStatusReply()> status,
                     std::shared_ptr<const HeldCalls> held);

  void CountCall(const std::string& method, StatusCode outcome);
  // A reader found damaged rows in a slot.
  void CountDamageReport() { damage_reports_->Increment(); }

  [[nodiscard]] std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const std::function<proto::GetStatusReply()> status_;
  const std::shared_ptr<const HeldCalls> held_;
  prometheus::Registry registry_;
  prometheus::Family<prometheus::Counter>* calls_;
  prometheus::Counter* damage_reports_;
};

}  // namespace engram
