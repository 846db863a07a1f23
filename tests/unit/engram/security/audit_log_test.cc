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
  auto entries = Entries(file);
  ASSERT_EQ(entries.size(), 1u);
  entries.push_back(Entries(scratch.path() / "audit.refused.log").at(0));
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
  EXPECT_EQ(files, 4u);  // and one of refusals, which is empty
  EXPECT_EQ(highest, 99);
}

TEST(AuditLogTest, AFloodOfRefusalsLeavesEveryChangeInPlace) {
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  const auto log = AuditLog::Open({.file = file, .bytes_max = 4000, .files_max = 1}).value();
  const PeerIdentity ann{Role::kOperator, "ann"};
  constexpr StatusCode kRefusals[] = {StatusCode::kPermissionDenied,   StatusCode::kMalformed,
                                      StatusCode::kInvalidArgument,    StatusCode::kNotFound,
                                      StatusCode::kFailedPrecondition, StatusCode::kUnavailable,
                                      StatusCode::kResourceExhausted};
  for (int i = 0; i < 10; ++i) {
    log->Write({&ann, "x", "admin.DrainNode", "m" + std::to_string(i), Status()});
    for (int j = 0; j < 200; ++j) {
      log->Write({nullptr, "x", "node.Register", "eve", {kRefusals[j % std::size(kRefusals)], ""}});
    }
  }
  // What may have been done is a change too.
  log->Write({&ann, "x", "admin.DropVersion", "7", {StatusCode::kDeadlineExceeded, "no answer"}});
  const auto changes = Entries(file);
  ASSERT_EQ(changes.size(), 11u);
  for (size_t i = 0; i < 10; ++i) EXPECT_EQ(changes[i].at("about"), "m" + std::to_string(i));
  EXPECT_EQ(changes[10].at("about"), "7");
  uint64_t refused_bytes = 0;
  for (const char* const name : {"audit.refused.log", "audit.refused.1.log"}) {
    const auto refusals = Entries(scratch.path() / name);
    EXPECT_FALSE(refusals.empty()) << name;
    for (const json& entry : refusals) EXPECT_EQ(entry.at("about"), "eve");
    refused_bytes += std::filesystem::file_size(scratch.path() / name);
  }
  EXPECT_LE(refused_bytes, 8000u);
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "audit.refused.2.log"));
}

TEST(AuditLogTest, RefusalsAreBesideTheChangesWhateverTheFileIsCalled) {
  EXPECT_EQ(RefusalsBeside("/var/log/audit.log"), "/var/log/audit.refused.log");
  EXPECT_EQ(RefusalsBeside("c0"), "c0.refused");
  EXPECT_EQ(RefusalsBeside("logs.d/c0"), "logs.d/c0.refused");
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
  const test::ScratchDir scratch;
  const auto file = scratch.path() / "audit.log";
  std::filesystem::create_symlink("/dev/full", file);
  std::filesystem::create_symlink("/dev/full", RefusalsBeside(file));
  const auto full = AuditLog::Open({.file = file});
  ASSERT_TRUE(full.has_value());
  for (int i = 0; i < 3; ++i) {
    (*full)->Write({nullptr, "x", "node.Register", {}, Status()});
    (*full)->Write({nullptr, "x", "connect", {}, Status(StatusCode::kPermissionDenied, "no")});
  }
}

}  // namespace
}  // namespace engram
