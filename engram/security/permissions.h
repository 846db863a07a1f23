// Which role may call what: the one table of it.
#pragma once

#include <string_view>

#include "engram/base/status.h"
#include "engram/security/role.h"

namespace engram {

// Of a control call, by its method ("directory.GetShardMap"). A method that the table does not know
// is refused to everybody. ERRORS: kPermissionDenied naming the caller, its role, and who may.
[[nodiscard]] Status CheckCall(const PeerIdentity& peer, std::string_view method);

// Whether a call changes something for others, so that the audit log has it even when it was
// allowed.
[[nodiscard]] bool IsChange(std::string_view method);

// Whether a certificate's name is that of `name`: the same, or a prefix before a '*' at its end
// ("memory-*"), for programs that come and go, as pods do.
[[nodiscard]] bool NameCovers(std::string_view certificate_name, std::string_view name);
// A memory node may speak for itself only. ERRORS: kPermissionDenied. Null: development mode.
[[nodiscard]] Status CheckNodeName(const PeerIdentity* peer, std::string_view node);

// Of an HTTP request with a certificate: every role may look, and use the model worker's API.
// /healthz and /readyz are open to everybody, without a certificate too.
[[nodiscard]] bool PathIsOpen(std::string_view path);

}  // namespace engram
