// The calls that engramctl makes to a coordinator.
#pragma once

#include "engram/base/status.h"
#include "proto/admin.pb.h"
#include "proto/directory.pb.h"
#include "tools/command.h"

namespace engram {

// ERRORS: the coordinator's own, and those of RpcCallOnce (kUnavailable: it is not there).
[[nodiscard]] Result<proto::GetStatusReply> CallGetStatus(const CoordinatorOptions& coordinator);
[[nodiscard]] Result<proto::CreateVersionReply> CallCreateVersion(
    const CoordinatorOptions& coordinator, const proto::CreateVersionRequest& request);
[[nodiscard]] Result<proto::DrainNodeReply> CallDrainNode(const CoordinatorOptions& coordinator,
                                                          const proto::DrainNodeRequest& request);
[[nodiscard]] Result<proto::RemoveNodeReply> CallRemoveNode(
    const CoordinatorOptions& coordinator, const proto::RemoveNodeRequest& request);
[[nodiscard]] Result<proto::SwitchVersionReply> CallSwitchVersion(
    const CoordinatorOptions& coordinator, const proto::SwitchVersionRequest& request);
[[nodiscard]] Result<proto::DropVersionReply> CallDropVersion(
    const CoordinatorOptions& coordinator, const proto::DropVersionRequest& request);
[[nodiscard]] Result<proto::GetPlanReply> CallGetPlan(const CoordinatorOptions& coordinator,
                                                      const proto::GetPlanRequest& request);
[[nodiscard]] Result<proto::GetEventsReply> CallGetEvents(const CoordinatorOptions& coordinator,
                                                          const proto::GetEventsRequest& request);
[[nodiscard]] Result<proto::GetShardMapReply> CallGetShardMap(
    const CoordinatorOptions& coordinator, const proto::GetShardMapRequest& request);

}  // namespace engram
