// What a certificate makes its holder (permissions.h says what each may do).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace engram {

enum class Role : uint8_t {
  kReader = 0,       // a model worker, a tool that reads rows
  kNode = 1,         // a memory node
  kCoordinator = 2,  // a coordinator
  kOperator = 3,     // a person or program that changes the cluster, with engramctl
};
inline constexpr int kRoleCount = 4;

// "reader", "node", "coordinator", "operator".
[[nodiscard]] std::string_view RoleName(Role role);
[[nodiscard]] std::optional<Role> ParseRole(std::string_view name);

// A certificate names the role as an organisation of its subject (O), this before the role's name;
// exactly one such organisation. The subject's common name (CN) is the holder's own name.
inline constexpr std::string_view kRoleOrganizationPrefix = "engram:";

// Who a peer is, as its certificate says.
struct PeerIdentity {
  Role role = Role::kReader;
  std::string name;
  friend bool operator==(const PeerIdentity&, const PeerIdentity&) = default;
};

}  // namespace engram
