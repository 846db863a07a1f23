// The calls that engramctl makes to a coordinator.
#pragma once

#include "engram/base/status.h"
#include "proto/admin.pb.h"
#include "tools/command.h"

namespace engram {

// ERRORS: the coordinator's own, and those of RpcCallOnce (kUnavailable: it is not there).
[[nodiscard]] Result<proto::GetStatusReply> CallGetStatus(const CoordinatorOptions& coordinator);
[[nodiscard]] Result<proto::CreateVersionReply> CallCreateVersion(
    const CoordinatorOptions& coordinator, const proto::CreateVersionRequest& request);

}  // namespace engram
