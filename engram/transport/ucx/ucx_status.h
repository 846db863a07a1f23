// UCX's status codes as ours.
#pragma once

#include <string_view>

#include <ucs/type/status.h>

#include "engram/base/status.h"

namespace engram {

[[nodiscard]] StatusCode FromUcx(ucs_status_t status);
// "<doing>: <UCX's words>".
[[nodiscard]] Status UcxStatus(ucs_status_t status, std::string_view doing);

}  // namespace engram
