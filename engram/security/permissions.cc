#include "engram/security/permissions.h"

#include <array>
#include <string>

namespace engram {
namespace {

constexpr uint32_t Bit(Role role) { return 1u << static_cast<uint32_t>(role); }
constexpr uint32_t kReaders = Bit(Role::kReader);
constexpr uint32_t kNodes = Bit(Role::kNode);
constexpr uint32_t kOperators = Bit(Role::kOperator);

struct Permission {
  std::string_view methods;  // that begin so
  uint32_t roles = 0;
  bool change = false;
};

// The first that fits counts. docs/SECURITY.md shows it.
constexpr std::array kPermissions = {
    // Memory nodes tell what they hold and are told what to hold.
    Permission{"node.Register", kNodes, true},
    Permission{"node.", kNodes},
    // Where rows are; which slot gave a wrong one.
    Permission{"directory.", kReaders | kNodes | kOperators},
    // Rows, of memory nodes: for workers, for nodes that copy a slot, for engramctl's look-ups.
    Permission{"session.", kReaders | kNodes | kOperators},
    // Looking, and changing the cluster.
    Permission{"admin.Get", kOperators},
    Permission{"admin.", kOperators, true},
};

const Permission* Find(std::string_view method) {
  for (const Permission& permission : kPermissions) {
    if (method.starts_with(permission.methods)) return &permission;
  }
  return nullptr;
}

std::string RolesText(uint32_t roles) {
  std::string text;
  for (int i = 0; i < kRoleCount; ++i) {
    const Role role = static_cast<Role>(i);
    if ((roles & Bit(role)) == 0) continue;
    if (!text.empty()) text += " or ";
    text += RoleName(role);
  }
  return text.empty() ? "nobody" : text;
}

}  // namespace

Status CheckCall(const PeerIdentity& peer, std::string_view method) {
  const Permission* const permission = Find(method);
  const uint32_t roles = permission == nullptr ? 0 : permission->roles;
  if ((roles & Bit(peer.role)) != 0) return {};
  return {StatusCode::kPermissionDenied,
          "'" + peer.name + "' has a certificate of role " + std::string(RoleName(peer.role)) +
              ", and " + std::string(method) + " is for " + RolesText(roles) +
              ": use a certificate that allows it (engramctl certs issue --role)"};
}

bool IsChange(std::string_view method) {
  const Permission* const permission = Find(method);
  return permission != nullptr && permission->change;
}

bool NameCovers(std::string_view certificate_name, std::string_view name) {
  if (!certificate_name.ends_with('*')) return certificate_name == name;
  certificate_name.remove_suffix(1);
  return name.starts_with(certificate_name);
}

Status CheckNodeName(const PeerIdentity* peer, std::string_view node) {
  if (peer == nullptr || NameCovers(peer->name, node)) return {};
  return {StatusCode::kPermissionDenied,
          "the certificate of '" + peer->name + "' does not speak for node '" + std::string(node) +
              "': issue one with that name, or with a prefix and '*'"};
}

bool PathIsOpen(std::string_view path) { return path == "/healthz" || path == "/readyz"; }

}  // namespace engram
