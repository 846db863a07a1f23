// A coordinator's status for people and for programs.
#pragma once

#include <string>

#include <nlohmann/json.hpp>

#include "proto/admin.pb.h"

namespace engram {

// Keys are the field names of proto/admin.proto; every number is a JSON number.
[[nodiscard]] nlohmann::ordered_json StatusJson(const proto::GetStatusReply& status);
// Two tables: versions, nodes.
[[nodiscard]] std::string StatusText(const proto::GetStatusReply& status);

// What a person sees while a version loads: "version 3: 120 of 480 slots ready, 0.4 of 1.1 GiB".
[[nodiscard]] std::string LoadText(const proto::VersionStatus& version);

}  // namespace engram
