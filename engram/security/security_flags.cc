#include "engram/security/security_flags.h"

#include <spdlog/spdlog.h>

#include "engram/security/permissions.h"

namespace engram {

void AddSecurityFlags(CLI::App* app, SecurityFlags* flags, const std::string& group) {
  app->add_option("--certs", flags->certs,
                  "Folder with ca.crt, tls.crt and tls.key (engramctl certs makes one; a "
                  "Kubernetes TLS secret has the same names): everything is under mutual TLS then, "
                  "and new files are taken without a restart. Without it: development mode, on "
                  "loopback only")
      ->type_name("FOLDER")
      ->envname("ENGRAM_CERTS")
      ->group(group);
  app->add_flag("--insecure", flags->insecure,
                "Development mode beyond loopback: no TLS, and whoever reaches a port may read and "
                "change everything. For networks that you trust")
      ->group(group);
}

void AddAuditFlag(CLI::App* app, std::string* file, const std::string& group) {
  app->add_option(
         "--audit-log", *file,
         "Write every change and every refusal here: who, what, when, from where, one line "
         "of JSON each (engramctl audit shows them). Rotates at 16 MiB, 8 files are kept")
      ->type_name("FILE")
      ->group(group);
}

Result<std::shared_ptr<AuditLog>> OpenAuditLog(const std::string& file) {
  if (file.empty()) return nullptr;
  auto log = AuditLog::Open({.file = file});
  if (!log.has_value()) return Error(log.error().WithContext("--audit-log"));
  return log;
}

Result<ChannelSecurity> OpenSecurity(const SecurityFlags& flags) {
  ChannelSecurity security;
  security.insecure = flags.insecure;
  if (flags.certs.empty()) return security;
  if (flags.insecure) {
    return Error(StatusCode::kInvalidArgument,
                 "--certs and --insecure exclude each other: with certificates everything is "
                 "under TLS");
  }
  auto identity = TlsIdentity::Load(flags.certs);
  if (!identity.has_value()) return Error(identity.error().WithContext("--certs"));
  security.identity = *std::move(identity);
  return security;
}

Result<ChannelSecurity> OpenServerSecurity(const SecurityFlags& flags, Role role,
                                           const std::string& name) {
  ENGRAM_ASSIGN_OR_RETURN(ChannelSecurity security, OpenSecurity(flags));
  if (security.identity == nullptr) {
    if (security.insecure) {
      spdlog::warn("--insecure: whoever reaches this port may read and change everything");
    } else {
      spdlog::info("development mode: no certificates (--certs), so loopback only");
    }
    return security;
  }
  const PeerIdentity own = security.identity->own();
  if (own.role != role) {
    return Error(StatusCode::kInvalidArgument,
                 "--certs " + flags.certs + ": the certificate is of a " +
                     std::string(RoleName(own.role)) + ", this program is a " +
                     std::string(RoleName(role)) + " (engramctl certs issue --role " +
                     std::string(RoleName(role)) + ")");
  }
  if (!name.empty() && !NameCovers(own.name, name)) {
    return Error(StatusCode::kInvalidArgument, "--certs " + flags.certs +
                                                   ": the certificate is for '" + own.name +
                                                   "', this is '" + name + "' (--id)");
  }
  spdlog::info("mutual TLS as {} '{}', for {} more days", RoleName(role), own.name,
               security.identity->SecondsLeft() / 86400);
  return security;
}

}  // namespace engram
