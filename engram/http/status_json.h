// The coordinator's status as JSON: its /status page and `engramctl status --json`.
#pragma once

#include <nlohmann/json.hpp>

#include "proto/admin.pb.h"

namespace engram {

// Keys are the field names of proto/admin.proto; every number is a JSON number.
[[nodiscard]] nlohmann::ordered_json StatusJson(const proto::GetStatusReply& status);

}  // namespace engram
