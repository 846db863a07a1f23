#include "engram/security/permissions.h"

#include <map>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace engram {
namespace {

using testing::HasSubstr;

bool May(Role role, std::string_view method) { return CheckCall({role, "x"}, method).ok(); }

TEST(PermissionsTest, EachRoleMayWhatTheTableSaysAndNothingElse) {
  const std::map<std::string, std::vector<Role>> allowed = {
      {"node.Register", {Role::kNode}},
      {"node.Heartbeat", {Role::kNode}},
      {"directory.GetShardMap", {Role::kReader, Role::kNode, Role::kOperator}},
      {"directory.ReportSlot", {Role::kReader, Role::kNode, Role::kOperator}},
      {"session.Open", {Role::kReader, Role::kNode, Role::kOperator}},
      {"session.GetDirectory", {Role::kReader, Role::kNode, Role::kOperator}},
      {"admin.GetStatus", {Role::kOperator}},
      {"admin.CreateVersion", {Role::kOperator}},
      {"admin.DrainNode", {Role::kOperator}},
      {"admin.RemoveNode", {Role::kOperator}},
      {"admin.SwitchVersion", {Role::kOperator}},
      {"admin.DropVersion", {Role::kOperator}},
      {"admin.GetPlan", {Role::kOperator}},
      {"admin.GetEvents", {Role::kOperator}},
      // What nobody has thought of is for nobody.
      {"", {}},
      {"node", {}},
      {"admin", {}},
      {"adminDrainNode", {}},
      {" admin.DrainNode", {}},
      {"Admin.DrainNode", {}},
      {"test.Echo", {}},
  };
  for (const auto& [method, roles] : allowed) {
    for (int i = 0; i < kRoleCount; ++i) {
      const auto role = static_cast<Role>(i);
      const bool expected = std::find(roles.begin(), roles.end(), role) != roles.end();
      EXPECT_EQ(May(role, method), expected) << RoleName(role) << " '" << method << "'";
    }
  }
}

TEST(PermissionsTest, ARefusalNamesWhoWhatAndWhoMay) {
  const Status refused = CheckCall({Role::kReader, "gpu-7"}, "admin.DrainNode");
  EXPECT_EQ(refused.code(), StatusCode::kPermissionDenied);
  EXPECT_THAT(refused.message(), HasSubstr("'gpu-7' has a certificate of role reader"));
  EXPECT_THAT(refused.message(), HasSubstr("admin.DrainNode is for operator"));
}

TEST(PermissionsTest, ANodeSpeaksForItselfOnly) {
  const PeerIdentity exact{Role::kNode, "m1"};
  EXPECT_TRUE(CheckNodeName(&exact, "m1").ok());
  EXPECT_EQ(CheckNodeName(&exact, "m10").code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(CheckNodeName(&exact, "").code(), StatusCode::kPermissionDenied);
  const PeerIdentity prefix{Role::kNode, "memory-*"};
  EXPECT_TRUE(CheckNodeName(&prefix, "memory-12").ok());
  EXPECT_FALSE(CheckNodeName(&prefix, "m1").ok());
  EXPECT_FALSE(CheckNodeName(&prefix, "memory").ok());
  EXPECT_TRUE(CheckNodeName(nullptr, "m1").ok());
}

TEST(PermissionsTest, RolesAreReadAsTheyAreWritten) {
  for (int i = 0; i < kRoleCount; ++i) {
    EXPECT_EQ(ParseRole(RoleName(static_cast<Role>(i))), static_cast<Role>(i));
  }
  EXPECT_EQ(ParseRole(""), std::nullopt);
  EXPECT_EQ(ParseRole("Operator"), std::nullopt);
  EXPECT_EQ(ParseRole("operator "), std::nullopt);
}

TEST(PermissionsTest, OnlyProbesAreOpen) {
  EXPECT_TRUE(PathIsOpen("/healthz"));
  EXPECT_TRUE(PathIsOpen("/readyz"));
  for (const char* path :
       {"/metrics", "/status", "/", "", "/healthz/", "//healthz", "/healthzx", "/v1/completions"}) {
    EXPECT_FALSE(PathIsOpen(path)) << path;
  }
}

}  // namespace
}  // namespace engram
