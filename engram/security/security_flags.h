// The flags of every program that talks to others: --certs and --insecure.
#pragma once

#include <memory>
#include <string>

#include <CLI/App.hpp>

#include "engram/base/status.h"
#include "engram/security/audit_log.h"
#include "engram/security/tls_identity.h"

namespace engram {

struct SecurityFlags {
  std::string certs;  // folder; empty: development mode
  bool insecure = false;
};

// `group` as CLI11 groups the help.
void AddSecurityFlags(CLI::App* app, SecurityFlags* flags, const std::string& group = "Security");

// --audit-log of a server. `file` empty: none is written.
void AddAuditFlag(CLI::App* app, std::string* file, const std::string& group = "Security");
// Null where none is wanted. ERRORS: those of AuditLog::Open.
[[nodiscard]] Result<std::shared_ptr<AuditLog>> OpenAuditLog(const std::string& file);

// Loads what the flags name. Servers say once in their log what mode they run in.
// ERRORS: those of TlsIdentity::Load; kInvalidArgument (both flags).
[[nodiscard]] Result<ChannelSecurity> OpenSecurity(const SecurityFlags& flags);
// The same for a program that others take for one of this role. ERRORS: also kInvalidArgument (the
// certificate is of another role, or `name` is not empty and not the name it is for).
[[nodiscard]] Result<ChannelSecurity> OpenServerSecurity(const SecurityFlags& flags, Role role,
                                                         const std::string& name = {});

}  // namespace engram
