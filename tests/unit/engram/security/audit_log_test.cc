#include "engram/security/audit_log.h"

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "tests/support/child_process.h"

namespace engram {
namespace {

using nlohmann::json;

std::vector<json> Entries(const std::filesystem::path& file) {
  std::vector<json> entries;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) entries.push_back(json::parse(line));
  return entries;
}

TEST(AuditLogTest, AnEntryHasWhoWhatWhenWhereAndTheOutcome) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const PeerIdentity ann{Role::kOperator, "ann"};
  {
    const auto log = AuditLog::Open({.file = file}).value();
    log->Write({&ann, "10.0.0.7:51022", "admin.DrainNode", "m0", Status()});
  }
  // Appended to after a restart.
  const auto log = AuditLog::Open({.file = file}).value();
  log->Write(
      {nullptr, "10.0.0.8:1", "connect", {}, {StatusCode::kPermissionDenied, "not of our CA"}});
  const auto entries = Entries(file);
  ASSERT_EQ(entries.size(), 2u);
  EXPECT_EQ(entries[0].at("who"), "ann");
  EXPECT_EQ(entries[0].at("role"), "operator");
  EXPECT_EQ(entries[0].at("from"), "10.0.0.7:51022");
  EXPECT_EQ(entries[0].at("what"), "admin.DrainNode");
  EXPECT_EQ(entries[0].at("about"), "m0");
  EXPECT_EQ(entries[0].at("outcome"), "OK");
  EXPECT_THAT(entries[0].at("time").get<std::string>(),
              testing::MatchesRegex("20[0-9][0-9]-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:"
                                    "[0-9][0-9][.][0-9][0-9][0-9]Z"));
  EXPECT_EQ(entries[1].at("who"), "");
  EXPECT_EQ(entries[1].at("outcome"), "PERMISSION_DENIED");
  EXPECT_EQ(entries[1].at("message"), "not of our CA");
}

TEST(AuditLogTest, AHostileNameIsOneLineAndNoMore) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  const PeerIdentity eve{Role::kReader, "eve\n{\"who\":\"ann\"}\r\x1b[2J\xff\xfe\""};
  const std::string what("admin.\0\n%v%s{}", 14);
  log->Write({&eve, "x", what, "a\tb", Status()});
  const auto entries = Entries(file);
  ASSERT_EQ(entries.size(), 1u);
  EXPECT_THAT(entries[0].at("who").get<std::string>(),
              testing::StartsWith("eve\n{\"who\":\"ann\"}"));
  EXPECT_EQ(entries[0].at("what"), what);
  EXPECT_EQ(test::ReadFile(file).find('\x1b'), std::string::npos);
}

TEST(AuditLogTest, AFullFileIsKeptUnderAnotherNameAndTheOldestGoes) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file, .bytes_max = 2000, .files_max = 2}).value();
  for (int i = 0; i < 100; ++i) {
    log->Write({nullptr, "x", "node.Register", std::to_string(i), Status()});
  }
  size_t files = 0;
  int highest = -1;
  for (const auto& entry : std::filesystem::directory_iterator(scratch.path())) {
    ++files;
    EXPECT_LE(entry.file_size(), 2000u);
    for (const json& line : Entries(entry.path())) {
      highest = std::max(highest, std::stoi(line.at("about").get<std::string>()));
    }
  }
  EXPECT_EQ(files, 3u);
  EXPECT_EQ(highest, 99);
}

TEST(AuditLogTest, LinesOfManyThreadsStayWhole) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file}).value();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&log, t] {
      for (int i = 0; i < 250; ++i) {
        log->Write({nullptr, std::to_string(t), "connect", std::string(200, 'x'), Status()});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(Entries(file).size(), 1000u);
}

TEST(AuditLogTest, AFileThatCannotBeOpenedIsNamedAndAFullDiskEndsNothing) {
  EXPECT_THAT(AuditLog::Open({.file = "/proc/no/audit.log"}).error().message(),
              testing::HasSubstr("/proc/no/audit.log"));
  const auto full = AuditLog::Open({.file = "/dev/full"});
  ASSERT_TRUE(full.has_value());
  for (int i = 0; i < 3; ++i) (*full)->Write({nullptr, "x", "connect", {}, Status()});
}

}  // namespace
}  // namespace engram
