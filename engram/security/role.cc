#include "engram/security/role.h"

#include <array>

namespace engram {
namespace {
constexpr std::array<std::string_view, kRoleCount> kNames = {"reader", "node", "coordinator",
                                                             "operator"};
}  // namespace

std::string_view RoleName(Role role) {
  const auto i = static_cast<size_t>(role);
  return i < kNames.size() ? kNames[i] : "unknown";
}

std::optional<Role> ParseRole(std::string_view name) {
  for (size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Role>(i);
  }
  return std::nullopt;
}

}  // namespace engram
