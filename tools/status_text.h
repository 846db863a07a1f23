// A coordinator's status for people; for programs it is in engram/http/status_json.h.
#pragma once

#include <string>

#include "proto/admin.pb.h"

namespace engram {

// Two tables: versions, nodes.
[[nodiscard]] std::string StatusText(const proto::GetStatusReply& status);

// One table: nodes.
[[nodiscard]] std::string NodesText(const proto::GetStatusReply& status);
// "node m1: 120 slots, 0.4 GiB still to move away".
[[nodiscard]] std::string DrainText(const proto::NodeStatus& node);

// What a person sees while a version loads: "version 3: 120 of 480 slots ready, 0.4 of 1.1 GiB".
[[nodiscard]] std::string LoadText(const proto::VersionStatus& version);

}  // namespace engram
